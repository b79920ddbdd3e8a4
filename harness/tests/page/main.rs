//! The HTML report in a browser: it is opened, filtered, clicked through, and looked at.

mod browser;
mod results;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use browser::Browser;
use inflight_race::kit::verdict::{Class, Verdict};
use inflight_race::run::results::write_run;
use inflight_race::target::Target;

/// Makes two runs and their page, by the command that users have.
fn page(folder: &Path) -> PathBuf {
    let fail = Verdict::Fail { classes: vec![Class::Stale] };
    write_run(&folder.join("a"), &results::run(Target::Inflight, fail)).unwrap();
    write_run(&folder.join("b"), &results::run(Target::Ext4, Verdict::Pass)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_inflight-race"))
        .args(["report", "a", "b", "--html", "page.html"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    folder.join("page.html")
}

/// A browser, or a line that is seen also when the test passes: `eprintln` would be captured.
#[expect(clippy::explicit_write)]
fn browser() -> Option<Browser> {
    let browser = Browser::start();
    if browser.is_none() {
        writeln!(std::io::stderr(), "skipped: no chromium; scripts/setup --all installs it")
            .unwrap();
    }
    browser
}

/// The one article that is to be seen.
const SHOWN: &str =
    "[...document.querySelectorAll('article')].filter((a) => !a.hidden).map((a) => a.id).join()";
const COUNT: &str = "document.querySelector('#shown').textContent";

#[test]
fn the_page_is_filtered_and_clicked_through() {
    let folder = tempfile::tempdir().unwrap();
    let page = page(folder.path());
    let Some(mut browser) = browser() else { return };
    browser.dress(1280, 900, false);
    browser.open(&page);
    assert_eq!(browser.value(SHOWN), "SP5.eof-1.0", "what failed comes first");
    assert_eq!(browser.value(COUNT), "24 of 24");
    assert_eq!(browser.value("document.title"), "1 FAIL · inflight-race");

    // By text, from the keyboard.
    browser.key("/");
    browser.write("fk1 uring");
    assert_eq!(browser.value(COUNT), "2 of 24");
    let names = "[...document.querySelectorAll('.names a')].map((a) => a.innerText.replace(/\\s+/g, ' ').trim()).join('; ')";
    assert_eq!(browser.value(names), "store/uring inflight; store/uring ext4");
    browser.write(" nothing");
    assert_eq!(browser.value(COUNT), "0 of 24");
    assert_eq!(browser.value("document.querySelector('.none').hidden"), false);
    browser.key("Escape");
    assert_eq!(browser.value(COUNT), "24 of 24");

    // By verdict, with the mouse.
    browser.click(".filter[data-word=XFAIL]");
    assert_eq!(browser.value(COUNT), "2 of 24");
    browser.click(".filter[data-word=FAIL]");
    assert_eq!(browser.value(COUNT), "3 of 24");
    browser.click(".filter[data-word=FAIL]");
    browser.click(".names a");
    assert_eq!(browser.value(SHOWN), "IV1.async_aio.0");
    assert_eq!(browser.value("location.hash"), "#IV1.async_aio.0");
    browser.key("Escape");

    // From one to the next with keys alone.
    browser.click(".matrix a[href='#FK1.store_pread.0']");
    browser.key("n");
    assert_eq!(browser.value(SHOWN), "FK1.store_uring.0");
    browser.key("ArrowDown");
    assert_eq!(browser.value(SHOWN), "IV1.async_aio.0");
    browser.key("ArrowRight");
    assert_eq!(browser.value(SHOWN), "IV1.async_aio.1", "the next run");
    browser.key("p");
    assert_eq!(browser.value(SHOWN), "IV1.async_aio.0");

    assert_eq!(browser.value("performance.getEntriesByType('resource').length"), 0);
    assert_eq!(browser.exceptions(), Vec::<String>::new());
}

#[test]
fn a_variant_shows_its_timeline_and_its_strip() {
    let folder = tempfile::tempdir().unwrap();
    let page = page(folder.path());
    let Some(mut browser) = browser() else { return };
    browser.dress(1280, 900, false);
    browser.open(&page);
    let within = "article:not([hidden])";
    let count = |selector: &str| format!("document.querySelectorAll('{within} {selector}').length");

    // The window is where the request was parked, and the fork and a request fell into it.
    assert_eq!(browser.value(&count("svg rect.band")), 1);
    assert_eq!(browser.value(&count(".moments .inside")), 2);
    let sentence =
        browser.value(&format!("document.querySelector('{within} .sentence').innerText"));
    assert_eq!(sentence, "The window was open for 340 µs. Into it fell: fork.");
    let inside = format!(
        "(() => {{ const box = (q) => document.querySelector('{within} ' + q).getBoundingClientRect(); \
         const band = box('rect.band'), fork = box('.mark.racer .dot'); \
         return band.left < fork.left && fork.right < band.right && band.width > 100; }})()"
    );
    assert_eq!(browser.value(&inside), true);

    // A mark and its line light up together, by mouse and by focus.
    browser.point(&format!("{within} svg .mark.racer circle:not(.dot)"));
    assert_eq!(browser.value(&count(".moments .racer.on")), 1);
    assert_eq!(browser.value(&count("svg .cursor:not([hidden])")), 1);
    browser.click(&format!("{within} svg .mark.racer circle:not(.dot)"));
    assert_eq!(browser.value("document.activeElement.innerText.includes('fork')"), true);

    // Eight blocks, of which two are not what they must be.
    assert_eq!(browser.value(&count(".cells i")), 8);
    assert_eq!(browser.value(&count(".cells i.old.bad")), 2);
    assert_eq!(browser.value(&count(".cells i.new:not(.bad)")), 6);
    browser.point(&format!("{within} .strip tr.bad"));
    assert_eq!(browser.value(&count(".cells i.on")), 2);
    let row = format!("document.querySelector('{within} .strip tr.bad').innerText");
    let row = browser.value(&row);
    let row = row.as_str().unwrap();
    assert!(row.contains("1024 to 2048") && row.contains("generation 1 of file 7"), "{row}");
    assert_eq!(browser.exceptions(), Vec::<String>::new());
}

#[test]
fn the_page_looks_as_it_must_in_light_and_dark_wide_and_narrow() {
    let folder = tempfile::tempdir().unwrap();
    let page = page(folder.path());
    let Some(mut browser) = browser() else { return };
    for (width, height) in [(1280, 1000), (480, 2400)] {
        browser.dress(width, height, false);
        browser.open(&page);
        let light = browser.picture();
        assert_eq!((light.width, light.height), (width, height));
        assert!(light.colours() > 40, "{} colours: a blank page", light.colours());
        for (what, colour, least) in [
            ("paper", [0xff, 0xff, 0xff], (width * height / 4) as usize),
            ("PASS", [0xa9, 0xdc, 0xbc], 1500),
            ("FAIL", [0xd3, 0x26, 0x1f], 300),
            ("XFAIL", [0xf0, 0xb9, 0x3a], 200),
            ("the window", [0xff, 0xf0, 0xcc], 3000),
        ] {
            assert!(light.count(colour) >= least, "{what} at {width}: {}", light.count(colour));
        }
        // Long names are cut or wrapped: nothing makes the page wider than its window.
        let wide = browser.value("document.documentElement.scrollWidth");
        assert!(wide.as_u64().unwrap() <= u64::from(width), "{wide} px in {width}");
        browser.dress(width, height, true);
        let dark = browser.picture();
        assert!(dark.count([0x12, 0x16, 0x1c]) > (width * height / 4) as usize, "dark paper");
        assert_eq!(dark.count([0xff, 0xf0, 0xcc]), 0, "no light window");
    }
    // The button overrides the system.
    browser.click("#theme");
    browser.click("#theme");
    assert_eq!(browser.value("document.querySelector('#theme').textContent"), "light");
    assert!(browser.picture().count([0x12, 0x16, 0x1c]) < 1000);
}
