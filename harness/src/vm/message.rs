//! What the guest tells the host: JSON lines on a line of their own, which the guest's kernel does not write to.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::kit::kernel::Kernel;
use crate::mechanisms::Shown;
use crate::run::Order;
use crate::run::worker::Line;

/// Name of the virtio-serial port of the messages.
pub const PORT: &str = "inflight.events";

/// Where the guest finds its [`Task`].
pub const TASK: &str = "/task.json";

/// Where the guest has its images and mounts.
pub const SCRATCH: &str = "/scratch";

/// Where it has a program of the host: under its own name, by which some know what they are to be.
pub fn program(on_host: &Path) -> String {
    format!("/bin/{}", on_host.file_name().unwrap_or_default().display())
}

/// What a guest is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Modules to load, in this order.
    pub modules: Vec<String>,
    /// What to do with them.
    pub job: Job,
    /// Whether messages go over the second serial line, for want of a virtio port.
    pub serial: bool,
    /// Swap on zram, in MiB.
    pub swap_mib: u64,
}

/// What a guest is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Play an order.
    Run(Box<Order>),
    /// Show these mechanisms; none named: all.
    Mechanisms(Vec<String>),
    /// Run a program.
    Program {
        /// The program on the host, and its arguments.
        words: Vec<String>,
        /// Programs that it finds in its PATH.
        beside: Vec<PathBuf>,
    },
}

/// What a guest says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Message {
    /// About the guest itself.
    Guest(State),
    /// About the run.
    Run(Line),
    /// The mechanisms that it was asked for.
    Mechanisms(Shown),
}

/// What a guest that came up says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Up {
    /// Its kernel.
    pub kernel: Kernel,
    /// What it could not get; some cases will not be run for that.
    pub lacks: Vec<String>,
    /// See [`crate::kit::bounds::slowness`].
    pub slowness: u32,
}

/// What became of a guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "guest", rename_all = "snake_case")]
pub enum State {
    /// It is up and starts the run.
    Up(Up),
    /// It cannot run anything.
    Unfit {
        /// Why.
        reason: String,
    },
    /// The program wrote this line.
    Wrote {
        /// Without its end.
        line: String,
    },
    /// The run ended, and the machine goes down.
    Ended {
        /// Exit code of the run's process; 0 when it played everything.
        code: i32,
    },
}
