//! README says what is so.
#![allow(clippy::unwrap_used)]

const README: &str = include_str!("../../README.md");
const EMBED: &str = include_str!("../examples/embed.rs");

/// The first program in README is the example, word for word, and a complete rollback takes 25 lines at most.
#[test]
fn the_first_program_is_the_example() {
    let program = README.split("```rust,no_run\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(EMBED.ends_with(program), "README's first program and examples/embed.rs differ");
    assert!(program.lines().count() <= 25);
}

/// The files that README points at are there.
#[test]
fn its_links_lead_somewhere() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let links = README.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let files: Vec<_> = links.filter(|link| !link.starts_with("http")).collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        assert!(root.join(file).exists(), "{file}");
    }
}
