//! ADDING.md shows a case that is compiled and run with all others.

#[test]
fn the_example_is_the_case() {
    let text = include_str!("../ADDING.md");
    let (_, code) = text.split_once("```rust\n").expect("an example");
    let (code, _) = code.split_once("```\n").expect("its end");
    assert_eq!(code, include_str!("../src/cases/truncate/unlink_read.rs"));
}
