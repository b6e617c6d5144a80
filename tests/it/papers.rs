//! The project's documentation: its links lead somewhere, and ARCHITECTURE.md stays short.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn papers() -> Vec<PathBuf> {
    let folders = ["", "doc", "tests", "benches"].map(|folder| root().join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The targets of `[text](target)` that are files.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains("://") && !target.starts_with('#'))
}

#[test]
fn links_between_papers_and_code_lead_somewhere() {
    let mut broken = Vec::new();
    let papers = papers();
    assert!(papers.len() > 8, "{papers:?}");
    for paper in papers {
        let text = std::fs::read_to_string(&paper).unwrap();
        let folder = paper.parent().unwrap();
        let lost = links(&text).filter(|link| !folder.join(link.split('#').next().unwrap_or_default()).exists());
        broken.extend(lost.map(|link| format!("{}: {link}", paper.display())));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn architecture_stays_short_and_maps_every_room() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(text.lines().count() <= 150, "{} lines", text.lines().count());
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let room = format!("`src/{}/", entry.file_name().to_str().unwrap());
            assert!(text.contains(&room), "the code map lacks {room}`");
        }
    }
}
