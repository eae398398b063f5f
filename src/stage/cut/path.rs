//! Names of entries, as paths below the root.

/// `name` without `./`, doubled slashes and a slash at its end; empty for the root itself.
///
/// # Errors
/// Why the name must not go into an image.
pub(super) fn normalise(name: &[u8]) -> Result<Vec<u8>, &'static str> {
    if name.first() == Some(&b'/') {
        return Err("the path is absolute");
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err("the path leaves the root with '..'"),
            _ if part.starts_with(WHITEOUT) => {
                return Err("a name that starts with '.wh.' would delete things in other layers");
            }
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    Ok(path)
}

/// What the name of a mark of a deletion begins with: what follows is deleted in the layers below (OCI image specification,
/// layer.md).
pub const WHITEOUT: &[u8] = b".wh.";

/// The path of an entry that is a mark of a deletion and nothing else that must not go into an image.
pub(super) fn of_whiteout(name: &[u8]) -> Option<Vec<u8>> {
    let at = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let mut path = normalise(&name[..at]).ok()?;
    if !name[at..].starts_with(WHITEOUT) {
        return None;
    }
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(&name[at..]);
    Some(path)
}

/// The directory that `path` is in: empty for the root, none for the root itself.
pub(in crate::stage) fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    Some(path.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |slash| &path[..slash]))
}

/// `path` and all directories above it, the root first.
pub(in crate::stage) fn from_root(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let root = std::iter::once(&path[..0]);
    let inner = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(slash, _)| &path[..slash]);
    let itself = Some(path).filter(|path| !path.is_empty());
    root.chain(inner).chain(itself)
}

/// Whether `path` is `folder` or lies below it.
#[must_use]
pub fn is_within(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| folder.is_empty() || rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths() {
        for (name, path) in
            [("./", ""), (".", ""), ("./a//b/", "a/b"), ("a/./b", "a/b"), ("..a/b..", "..a/b.."), ("x.wh.", "x.wh.")]
        {
            assert_eq!(normalise(name.as_bytes()).unwrap(), path.as_bytes(), "{name}");
        }
        for name in ["/etc/x", "../x", "a/../../x", "a/..", ".wh.x", "a/.wh..wh..opq"] {
            assert!(normalise(name.as_bytes()).is_err(), "{name}");
        }
    }

    #[test]
    fn ancestors_come_from_the_root_down() {
        assert_eq!(from_root(b"a/b/c").collect::<Vec<_>>(), [&b""[..], b"a", b"a/b", b"a/b/c"]);
        assert_eq!(from_root(b"").collect::<Vec<_>>(), [&b""[..]]);
        assert_eq!((parent(b"a/b"), parent(b"a"), parent(b"")), (Some(&b"a"[..]), Some(&b""[..]), None));
    }

    #[test]
    fn within_means_whole_names() {
        assert!(is_within(b"workspace/a", b"workspace") && is_within(b"workspace", b"workspace"));
        assert!(!is_within(b"workspaces", b"workspace") && !is_within(b"", b"workspace"));
    }
}
