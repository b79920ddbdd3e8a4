//! `inflight top`: what a mount is doing, on the whole terminal, until it ends.

mod draw;
mod sample;

use anyhow::{Context as _, ensure};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use sample::Sample;
use signal_hook::consts::{SIGHUP, SIGTERM};
use std::io::IsTerminal as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Columns and lines of a frame that is printed.
const PAPER: (u16, u16) = (120, 50);
/// How often a signal is looked for.
const GLANCE: Duration = Duration::from_millis(100);

/// Of what, and how often.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print one frame as text, and end; rates are those of one interval.
    #[arg(long)]
    once: bool,
    /// Time between frames, such as 500ms or 2s; at least 50ms.
    #[arg(long, default_value = "1s", value_parser = inflight_gate::cli::duration)]
    interval: Duration,
    /// Directory.
    mountpoint: PathBuf,
}

pub(super) fn run(args: &TopArgs) -> anyhow::Result<()> {
    ensure!(args.interval >= Duration::from_millis(50), "--interval: give 50ms or more");
    let first = Sample::take(&args.mountpoint)?;
    if args.once {
        std::thread::sleep(args.interval);
        let frame = Sample::take(&args.mountpoint)?.since(&first);
        return print(&frame);
    }
    ensure!(
        std::io::stdout().is_terminal(),
        "standard output is no terminal; --once prints one frame"
    );
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    // A panic restores the terminal, too: its hook does so first.
    let mut terminal = ratatui::try_init().context("this terminal cannot be used")?;
    let result = watch(&mut terminal, args, first, &ended);
    ratatui::restore();
    if result? == End::Gone {
        println!("{} is not mounted any more", args.mountpoint.display());
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum End {
    /// It was asked for.
    Asked,
    /// The server does not answer any more.
    Gone,
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    args: &TopArgs,
    mut last: Sample,
    ended: &AtomicBool,
) -> anyhow::Result<End> {
    let mut frame = last.since(&last);
    let keys = keys().context("there is no terminal to read keys from")?;
    loop {
        terminal.draw(|screen| draw::draw(screen, &frame))?;
        let next = Instant::now() + args.interval;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if ended.load(Relaxed) {
                return Ok(End::Asked);
            }
            if !wait(&keys, left.min(GLANCE)) {
                return Ok(End::Asked);
            }
            if !event::poll(Duration::ZERO)? {
                continue;
            }
            match event::read()? {
                Event::Key(key) if is_end(key) => return Ok(End::Asked),
                Event::Resize(..) => break,
                _ => {}
            }
        }
        let Ok(now) = Sample::take(&args.mountpoint) else { return Ok(End::Gone) };
        frame = now.since(&last);
        last = now;
    }
}

/// Where keys come from: what crossterm reads as well.
fn keys() -> std::io::Result<OwnedFd> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return stdin.as_fd().try_clone_to_owned();
    }
    Ok(std::fs::File::open("/dev/tty")?.into())
}

/// Waits for a key, or so long. False when the terminal is gone, of which crossterm would read the end for ever.
fn wait(keys: &OwnedFd, most: Duration) -> bool {
    let mut ready = [PollFd::new(keys.as_fd(), PollFlags::POLLIN)];
    // A signal ends it early, which whoever called looks at.
    let _ = poll(&mut ready, PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO));
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    !ready[0].revents().is_some_and(|is| is.intersects(gone))
}

fn is_end(key: KeyEvent) -> bool {
    let interrupts = key.modifiers.contains(KeyModifiers::CONTROL);
    let ends = match key.code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c' | 'd') => interrupts,
        _ => false,
    };
    ends && key.kind == KeyEventKind::Press
}

fn print(frame: &sample::Frame) -> anyhow::Result<()> {
    let (width, height) = PAPER;
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    terminal.draw(|screen| draw::draw(screen, frame))?;
    let buffer = terminal.backend().buffer();
    let lines: Vec<String> = (0..height)
        .map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>())
        .map(|line| line.trim_end().to_owned())
        .collect();
    let used = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    lines.iter().take(used).for_each(|line| println!("{line}"));
    Ok(())
}
