//! The user's `--exclude` patterns as basic regular expressions (POSIX, plus `\|`), for the guest's find.
//!
//! They mean what [`crate::exclude`] says: find's own `-path` can't, because its `*` crosses slashes.

use crate::error::{Error, Result};

/// One regular expression a pattern, over whole `./path` names.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for a pattern with a line break in it.
pub fn to_posix(patterns: &[String]) -> Result<Vec<String>> {
    patterns.iter().map(|pattern| one(pattern)).collect()
}

fn one(pattern: &str) -> Result<String> {
    if pattern.contains('\n') {
        return Err(Error::usage(
            "reading --exclude",
            crate::text::quoted(pattern.as_bytes()),
            "a guest's list has no line breaks",
        ));
    }
    let trimmed = pattern.trim_start_matches("./").trim_end_matches('/');
    let (anchored, glob) = match trimmed.strip_prefix('/') {
        Some(rest) => (true, rest),
        None => (trimmed.contains('/'), trimmed),
    };
    let mut regex = String::from(if anchored { r"\./" } else { r"\./\(.*/\)*" });
    let mut rest = glob.chars().peekable();
    let mut depth = 0;
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.peek() == Some(&'*') => {
                while rest.next_if_eq(&'*').is_some() {}
                // `**/` also matches no folder at all.
                if rest.next_if_eq(&'/').is_some() { regex += r"\(.*/\)*" } else { regex += ".*" }
            }
            '*' => regex += "[^/]*",
            '?' => regex += "[^/]",
            '{' => {
                depth += 1;
                regex += r"\(";
            }
            '}' if depth > 0 => {
                depth -= 1;
                regex += r"\)";
            }
            ',' if depth > 0 => regex += r"\|",
            '[' => class(&mut rest, &mut regex),
            '\\' => literal(rest.next().unwrap_or('\\'), &mut regex),
            c => literal(c, &mut regex),
        }
    }
    Ok(regex)
}

fn class(rest: &mut std::iter::Peekable<std::str::Chars>, regex: &mut String) {
    regex.push('[');
    if rest.next_if(|c| matches!(c, '!' | '^')).is_some() {
        regex.push('^');
    }
    // A bracket right at the beginning is one of the class.
    if rest.next_if_eq(&']').is_some() {
        regex.push(']');
    }
    for c in rest.by_ref() {
        regex.push(c);
        if c == ']' {
            return;
        }
    }
}

fn literal(c: char, regex: &mut String) {
    if matches!(c, '.' | '[' | ']' | '*' | '^' | '$' | '\\') {
        regex.push('\\');
    }
    regex.push(c);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Names on which find and the host's own [`crate::exclude::Exclude`] must agree.
    const NAMES: [&str; 12] = [
        "a.pyc",
        "x/y/a.pyc",
        "axpyc",
        "var/cache/apt",
        "x/var/cache/apt",
        "home/u/.cache",
        "home/u/v/.cache",
        "deep/a/b/end",
        "deep/end",
        "file1",
        "fileA",
        "x.jpg",
    ];

    #[test]
    fn find_agrees_with_the_host() {
        let folder = tempfile::tempdir().unwrap();
        for name in NAMES {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        for pattern in [
            "*.pyc",
            "/var/cache/apt",
            "home/*/.cache",
            "deep/**/end",
            "file[0-9]",
            "file[!0-9]",
            "*.{jpg,pyc}",
            "?.pyc",
            "x",
        ] {
            let exclude = crate::exclude::Exclude::new(&[pattern]).unwrap();
            let regex = &to_posix(exclude.patterns()).unwrap()[0];
            for find in [&["find"][..], &["busybox", "find"]] {
                let mut command = Command::new(find[0]);
                command.args(&find[1..]).arg(".").current_dir(folder.path());
                if find.len() == 1 {
                    command.args(["-regextype", "posix-basic"]);
                }
                let output = command.args(["-regex", regex, "-prune", "-o", "-type", "f", "-print"]).output().unwrap();
                let text = String::from_utf8(output.stdout).unwrap();
                for name in NAMES {
                    let kept = text.lines().any(|line| line == format!("./{name}"));
                    assert_eq!(
                        kept,
                        !exclude.matches_within(name.as_bytes()),
                        "{find:?}: {pattern} as {regex} on {name}"
                    );
                }
            }
        }
    }
}
