//! `inflight stat`, `list` and `label`: what people look at.

mod common;

use common::{Place, can_mount, ok, refused};
use serde_json::Value;
use std::fs::File;
use std::process::{Command, Stdio};

fn list(args: &[&str]) -> Vec<Value> {
    let said = ok(&[&["list", "--json"], args].concat());
    serde_json::from_str(&said).expect("JSON")
}

#[test]
fn images_are_listed_and_found_by_label_and_uuid() {
    let place = Place::empty();
    let dir = place.dir.path().to_str().expect("path").to_owned();
    let image = place.image().to_owned();
    std::fs::write(place.dir.path().join("no image"), "text").expect("write");
    ok(&["mkfs", "--size", "16M", "--label", "one", &image]);
    let found = list(&[&dir]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0]["label"], &found[0]["state"]), (&"one".into(), &"clean".into()));
    assert_eq!(found[0]["bytes"], 16 << 20);
    let uuid = format!("UUID={}", found[0]["uuid"].as_str().expect("text"));
    for tag in ["LABEL=one", &uuid] {
        assert_eq!(ok(&["list", "--find", tag, &dir]).trim_end(), found[0]["path"]);
    }
    assert!(refused(1, &["list", "--find", "LABEL=two", &dir]).contains("no image has LABEL=two"));
    assert!(refused(1, &["list", "--find", "one", &dir]).contains("neither LABEL=NAME"));
    std::fs::copy(&image, place.dir.path().join("copy")).expect("copy");
    assert!(refused(1, &["list", "--find", "LABEL=one", &dir]).contains("more than one"));
}

#[test]
fn a_label_is_changed_with_and_without_a_mount() {
    let place = Place::new(16);
    let image = place.image();
    assert_eq!(ok(&["label", image]), "\n");
    ok(&["label", image, "first"]);
    assert_eq!(ok(&["label", image]), "first\n");
    ok(&["fsck", image]);
    let long = "x".repeat(64);
    assert!(refused(1, &["label", image, &long]).contains("64 bytes long, at most 63"));
    if !can_mount() {
        return;
    }
    let mount = place.mount("", &[]);
    let dir = mount.dir.to_str().expect("path").to_owned();
    assert_eq!(ok(&["label", &dir]), "first\n");
    ok(&["label", image, "second"]);
    assert_eq!(ok(&["label", &dir]), "second\n");
    let found = list(&[]).into_iter().find(|found| found["mountpoint"] == dir.as_str());
    let found = found.expect("the mount is listed");
    assert_eq!((&found["label"], &found["state"]), (&"second".into(), &"mounted".into()));
    assert_eq!(found["pid"], mount.server());
    ok(&["label", &dir, ""]);
    mount.umount();
    assert_eq!(ok(&["label", image]), "\n");
    ok(&["fsck", image]);
}

/// With everything parked, whoever asks the mount waits, and who asks the server does not.
#[test]
fn a_parked_mount_says_what_it_does() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let socket = place.dir.path().join("gate");
    let socket = socket.to_str().expect("path");
    let mount = place.mount("attr_timeout=0,entry_timeout=0", &["--gate", socket]);
    File::create(mount.path("a")).expect("create");
    ok(&["gate", socket, "park", "--for", "60s"]);
    let cat = Command::new("cat").arg(mount.path("a")).stdout(Stdio::null()).spawn();
    let mut cat = cat.expect("cat");
    ok(&["gate", socket, "wait", "--parked", "1"]);
    let dir = mount.dir.to_str().expect("path");
    let said = Command::new("timeout").args(["20", common::INFLIGHT, "stat", dir]).output();
    let said = said.expect("timeout");
    let text = common::text(&said.stdout);
    assert!(said.status.success(), "{}: {text}", said.status);
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).expect("a line");
    assert_eq!(line("in flight"), "in flight   1 requests; 0 reads hold blocks");
    let space = line("space");
    assert!(space.contains("of 16.00 MiB") && space.contains("wait for"), "{space}");
    let create = line("create");
    assert!(create.contains("µs") || create.contains("ms"), "{create}");
    assert!(!text.contains(['{', '"']), "no JSON in a table: {text}");
    ok(&["gate", socket, "open"]);
    assert!(cat.wait().expect("wait").success());
    mount.umount();
}
