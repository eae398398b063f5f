//! The user's `--exclude` patterns in words of the guest's find: its own `-path` can't mean what [`crate::exclude`] says,
//! because its `*` crosses slashes.

use crate::error::Result;
use crate::exclude::Exclude;

/// One regular expression a pattern, see [`Exclude::to_posix`].
pub fn to_posix(patterns: &[String]) -> Result<Vec<String>> {
    Exclude::new(patterns)?.to_posix()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Names on which find and the host's own [`crate::exclude::Exclude`] must agree.
    const NAMES: [&str; 20] = [
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
        "p/x/q",
        "pxq",
        "p/q",
        "file/x",
        "file-",
        "file^",
        "file]",
        "file[",
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
            "p**q",
            "/p**q",
            "p/**/q",
            "p/**",
            "{p**,file[!0-9]}x",
            "{p**q,file[!0-9]x,**/end}",
            "file[!0-9A]",
            "file[/]x",
            "p[/]q",
            "p[+-1]q",
            "file[]^-]",
            "file[!]^-]",
            "file[[]",
            "file[^^]",
            "file[-^]",
            "{[/],x.jpg}",
        ] {
            let exclude = crate::exclude::Exclude::new(&[pattern]).unwrap();
            let regex = to_posix(exclude.patterns()).unwrap().pop().unwrap_or_default();
            let regex = &regex;
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
