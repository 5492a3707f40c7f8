//! Links in Markdown: the files and headings that they lead to. Other hosts are not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use regex::Regex;

/// Where the project's own files are seen by others.
const PUBLISHED: &str = "https://github.com/meshcert/meshcert/blob/main/";

/// Every Markdown file of the project, by its path, with its text.
pub fn pages(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !name.starts_with('.') && !["target", "node_modules", "vendor"].contains(&name) {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(root).unwrap().to_owned(), text);
            }
        }
    }
    found
}

/// The links that lead nowhere, each with its page.
pub fn broken(root: &Path) -> Vec<String> {
    let pages = pages(root);
    let anchors: BTreeMap<&PathBuf, BTreeSet<String>> =
        pages.iter().map(|(path, text)| (path, anchors(text))).collect();
    let mut broken = Vec::new();
    for (page, text) in &pages {
        for target in targets(text) {
            let Some((path, anchor)) = destination(page, &target) else { continue };
            let place = format!("{} links to {target}", page.display());
            if !root.join(&path).exists() {
                broken.push(format!("{place}: there is no such file"));
            } else if let (Some(anchor), Some(known)) = (anchor, anchors.get(&path)) {
                if !known.contains(anchor) {
                    broken.push(format!("{place}: there is no such heading"));
                }
            } else if anchor.is_some() {
                broken.push(format!("{place}: only Markdown has headings"));
            }
        }
    }
    broken
}

/// File and heading within the project; `None` for other hosts and addresses.
fn destination<'a>(page: &Path, target: &'a str) -> Option<(PathBuf, Option<&'a str>)> {
    let (base, target) = match target.strip_prefix(PUBLISHED) {
        Some(path) => (Path::new(""), path),
        None if target.contains("://") || target.starts_with("mailto:") => return None,
        None => (page.parent().unwrap(), target),
    };
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let path = if path.is_empty() { page.to_owned() } else { base.join(path) };
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            part => clean.push(part),
        }
    }
    Some((clean, anchor))
}

/// What stands in `](…)` and in definitions, outside of code.
fn targets(text: &str) -> Vec<String> {
    let link = Regex::new(r#"\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)"#).unwrap();
    let definition = Regex::new(r"(?m)^\[[^\]]+\]:\s+(\S+)").unwrap();
    let text = without_code(text);
    link.captures_iter(&text).chain(definition.captures_iter(&text)).map(|found| found[1].to_owned()).collect()
}

/// The text without fenced blocks and without `code` in lines.
fn without_code(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    let code = Regex::new(r"`[^`]*`").unwrap();
    // A link's text may be code: only what stands between the marks goes.
    lines.map(|line| code.replace_all(line, "``").into_owned() + "\n").collect()
}

/// The anchors of a page's headings, as GitHub names them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let title = line.trim_start_matches('#');
        if fenced || title == line || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
        let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase();
        let mut name = slug.clone();
        for number in 1.. {
            if found.insert(name) {
                break;
            }
            name = format!("{slug}-{number}");
        }
    }
    found
}

#[test]
fn the_checker_finds_what_is_broken() {
    let folder = tempfile::TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "a.md",
        "# One `two`, three\n# Again\n# Again\n[1](b.md#there) [2](#one-two-three) [3](#again-1) [4](https://other.example/x) ![5](c.svg)\n\
         [6](nowhere.md) [7](b.md#nowhere) [8](#nowhere)\n`[9](nowhere.md)`\n```\n[10](nowhere.md)\n```\n\
         [11](https://github.com/meshcert/meshcert/blob/main/gone.md) [`12`](gone.md)\n",
    );
    write("b.md", "## There\n");
    write("c.svg", "");
    let expected = [
        "nowhere.md: there is no such file",
        "b.md#nowhere: there is no such heading",
        "#nowhere: there is no such heading",
        "https://github.com/meshcert/meshcert/blob/main/gone.md: there is no such file",
        "gone.md: there is no such file",
    ];
    assert_eq!(broken(folder.path()), expected.map(|end| format!("a.md links to {end}")));
}
