//! What `guest.sh` answers, read carefully: the guest is untrusted. Lines that mean nothing are passed over, what has
//! no first line or no end mark is refused, and no number decides how much memory is taken.

use std::collections::BTreeSet;

/// The lines between the first line and the end mark.
///
/// # Errors
/// What is missing, in words.
pub fn lines<'a>(stdout: &'a [u8], end_mark: &str) -> Result<Vec<&'a [u8]>, String> {
    let mut lines: Vec<&[u8]> = stdout.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    let (first, last) = (lines.first().copied(), lines.last().copied());
    if first != Some(b"smolfreeze 1") {
        return Err("the answer does not begin as guest.sh's answers do".to_owned());
    }
    if last != Some(format!("done {end_mark}").as_bytes()) {
        return Err(format!("the answer was cut off after {} bytes", stdout.len()));
    }
    Ok(lines[1..lines.len() - 1].to_vec())
}

/// Splits `word rest`.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    let at = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    (&line[..at], line.get(at + 1..).unwrap_or_default())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

/// A machine's own user, working directory and environment, as a plain exec sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whoami {
    /// The user's number.
    pub uid: u64,
    /// The group's number.
    pub gid: u64,
    /// The working directory.
    pub workdir: String,
    /// `KEY=VALUE`, in the order they came, without what a shell or smolvm adds.
    pub env: Vec<String>,
}

impl Whoami {
    /// Variables that a shell, a login or the exec itself adds; they are not the image's.
    const ADDED: [&'static str; 8] = ["PWD", "OLDPWD", "SHLVL", "_", "HOSTNAME", "TERM", "HOME", "container"];

    /// Reads the answer's lines.
    #[must_use]
    pub fn read(lines: &[&[u8]]) -> Self {
        let mut whoami = Self { workdir: "/".to_owned(), ..Self::default() };
        for line in lines {
            match word(line) {
                (b"uid", rest) => whoami.uid = number(rest).unwrap_or(0),
                (b"gid", rest) => whoami.gid = number(rest).unwrap_or(0),
                (b"cwd", rest) => whoami.workdir = text(rest),
                (b"env", rest) => {
                    let pair = text(rest).replace('\u{1}', "\n");
                    let key = pair.split('=').next().unwrap_or("");
                    if pair.contains('=') && !key.is_empty() && !Self::ADDED.contains(&key) {
                        whoami.env.push(pair);
                    }
                }
                _ => {}
            }
        }
        whoami
    }
}

/// What the look found.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// `uname -m`.
    pub architecture: String,
    /// The look ran as root.
    pub is_root: bool,
    /// `gnu`, `busybox` or `none`.
    pub tar: String,
    /// Programs that the guest has, of those that matter.
    pub tools: BTreeSet<String>,
    /// The folder that spools go to.
    pub spool_folder: Option<String>,
    /// KiB free there.
    pub free_kib: Option<u64>,
    /// Where `/workspace` points, if it is a link.
    pub workspace_link: Option<String>,
    /// `/proc/self/mountinfo`, line by line.
    pub mounts: Vec<Vec<u8>>,
}

impl Look {
    /// Reads the answer's lines.
    #[must_use]
    pub fn read(lines: &[&[u8]]) -> Self {
        let mut look = Self::default();
        for line in lines {
            match word(line) {
                (b"arch", rest) => look.architecture = text(rest),
                (b"uid", rest) => look.is_root = number(rest) == Some(0),
                (b"tar", rest) => look.tar = text(rest),
                (b"tool", rest) => drop(look.tools.insert(text(rest))),
                (b"spool", b"/var/tmp") => look.spool_folder = Some("/var/tmp".to_owned()),
                (b"spool", b"/tmp") => look.spool_folder = Some("/tmp".to_owned()),
                // df -P: source, size, used, free, percent, mount point; the source may have spaces in it.
                (b"df", rest) => {
                    let words: Vec<&[u8]> = rest.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
                    let percent = words.iter().position(|word| word.ends_with(b"%"));
                    look.free_kib = percent.and_then(|at| number(words.get(at.checked_sub(1)?)?));
                }
                (b"workspace", rest) => look.workspace_link = rest.strip_prefix(b"link ").map(text),
                (b"mount", rest) => look.mounts.push(rest.to_vec()),
                _ => {}
            }
        }
        look
    }
}

/// How the guest checksummed a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sum {
    /// POSIX `cksum`: a CRC over the bytes and their count.
    Cksum(u32),
    /// MD5, 32 lower-case hex digits.
    Md5(String),
    /// POSIX `cksum` of each piece of [`PIECE_BYTES`], the last of which may be shorter: our own reader's.
    Pieces(Vec<u32>),
}

/// Bytes that have a checksum of their own where our own reader reads. So many can be checked in the buffer in which they
/// then travel; a whole chunk would have to be read twice.
pub const PIECE_BYTES: u64 = 1 << 20;

/// One thing in the spool's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A file of the spool.
    Chunk {
        /// Its bytes.
        size: u64,
        /// Its checksum.
        sum: Sum,
    },
    /// An archive ends here.
    Seam,
}

/// Where the producer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not there yet.
    Starting,
    /// At work.
    Running,
    /// Another freeze, of this id, has the machine.
    Busy(String),
    /// So many items make the whole.
    End(u64),
    /// There is no spool; the lock, if any, is of this id.
    Gone(String),
}

/// The answer to `next`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// Items from the asked index on, without a gap.
    pub items: Vec<Item>,
    /// Where the producer stands.
    pub state: State,
    /// Changes while the producer lives.
    pub beat: u64,
    /// Changes while our reader lists or compares, which gives nothing until it is done.
    pub work: u64,
    /// `program code` lines, at the end.
    pub codes: Vec<(String, u64)>,
    /// What was said on stderr, at the end.
    pub words: Vec<Vec<u8>>,
}

impl Next {
    /// Reads the answer's lines; items must begin at index `from` and be no larger than `chunk_bytes`.
    ///
    /// # Errors
    /// What can't be, in words.
    pub fn read(lines: &[&[u8]], from: u64, chunk_bytes: u64) -> Result<Self, String> {
        let mut next =
            Self { items: Vec::new(), state: State::Starting, beat: 0, work: 0, codes: Vec::new(), words: Vec::new() };
        for line in lines {
            let said = || format!("guest.sh said '{}'", text(line));
            match word(line) {
                (b"chunk" | b"seam", _) => {
                    let (index, item) = item(line).ok_or_else(said)?;
                    let fits = !matches!(item, Item::Chunk { size, .. } if size == 0 || size > chunk_bytes);
                    if index != from + next.items.len() as u64 || !fits {
                        return Err(said());
                    }
                    next.items.push(item);
                }
                (b"state", rest) => next.state = state(rest).ok_or_else(said)?,
                (b"beat", rest) => next.beat = number(rest).unwrap_or(0),
                (b"work", rest) => next.work = number(rest).unwrap_or(0),
                (b"gone", rest) => next.state = State::Gone(text(rest)),
                (b"verdict", rest) => {
                    let (program, code) = word(rest);
                    next.codes.push((text(program), number(code).ok_or_else(said)?));
                }
                (b"word", rest) => next.words.push(rest.to_vec()),
                _ => {}
            }
        }
        Ok(next)
    }
}

fn item(line: &[u8]) -> Option<(u64, Item)> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    match words[..] {
        [b"seam", index] => Some((number(index)?, Item::Seam)),
        [b"chunk", index, size, kind, sum] => {
            let size = number(size)?;
            let crc = |sum| u32::try_from(number(sum)?).ok();
            let sum = match kind {
                b"cksum" => Sum::Cksum(crc(sum)?),
                b"md5" if sum.len() == 32 => Sum::Md5(text(sum)),
                b"pieces" => {
                    let sums: Vec<u32> = sum.split(|byte| *byte == b',').map(crc).collect::<Option<_>>()?;
                    (sums.len() as u64 == size.div_ceil(PIECE_BYTES)).then_some(Sum::Pieces(sums))?
                }
                _ => return None,
            };
            Some((number(index)?, Item::Chunk { size, sum }))
        }
        _ => None,
    }
}

fn state(rest: &[u8]) -> Option<State> {
    match word(rest) {
        (b"starting", _) => Some(State::Starting),
        (b"running", _) => Some(State::Running),
        (b"busy", owner) => Some(State::Busy(text(owner))),
        (b"end", count) => number(count).map(State::End),
        _ => None,
    }
}

/// `survey ENTRIES BYTES LARGEST`, as the survey prints it.
#[must_use]
pub fn survey(lines: &[&[u8]]) -> Option<(u64, u64, u64)> {
    let line = lines.iter().find_map(|line| line.strip_prefix(b"survey "))?;
    let numbers: Option<Vec<u64>> = line.split(|byte| *byte == b' ').map(number).collect();
    match numbers?[..] {
        [entries, bytes, largest] => Some((entries, bytes, largest)),
        _ => None,
    }
}

/// Why what was tried in the guest is no reader there, as `try` prints it; none where it is one.
#[must_use]
pub fn trial(lines: &[&[u8]]) -> Option<String> {
    if lines.contains(&b"ours".as_slice()) {
        return None;
    }
    let told =
        |key: &[u8]| lines.iter().map(|line| word(line)).find(|(word, _)| *word == key).map(|(_, rest)| text(rest));
    let (said, code) = (told(b"said").unwrap_or_default(), told(b"code").unwrap_or_default());
    Some(match said.strip_prefix("smolfreeze ") {
        Some(version) if version.trim() != env!("CARGO_PKG_VERSION") => {
            format!("it is of version {version}, and this is {}", env!("CARGO_PKG_VERSION"))
        }
        _ if said.is_empty() => format!("it does not run in the guest (exit code {code})"),
        _ => format!("it does not run in the guest (exit code {code}: {said})"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_its_end_is_refused() {
        assert_eq!(lines(b"smolfreeze 1\na\ndone x\n", "x").unwrap(), [b"a"]);
        assert!(lines(b"smolfreeze 1\na\ndone y\n", "x").is_err());
        assert!(lines(b"smolfreeze 1\na\n", "x").is_err());
        assert!(lines(b"", "x").is_err());
        assert!(lines(b"smolfreeze 1", "x").is_err());
        assert_eq!(lines(b"smolfreeze 1\ndone x", "x").unwrap(), Vec::<&[u8]>::new());
    }

    #[test]
    fn items_come_in_order_and_fit() {
        let read = |text: &[u8]| Next::read(&text.split(|byte| *byte == b'\n').collect::<Vec<_>>(), 3, 100);
        let next =
            read(b"chunk 3 100 cksum 4294967295\nseam 4\nchunk 5 1 md5 d41d8cd98f00b204e9800998ecf8427e\nstate end 6")
                .unwrap();
        assert_eq!(next.items.len(), 3);
        assert_eq!(next.state, State::End(6));
        for bad in [
            "chunk 4 1 cksum 1",
            "chunk 3 101 cksum 1",
            "chunk 3 0 cksum 1",
            "chunk 3 1 cksum 4294967296",
            "chunk 3 1 crc 1",
            "chunk 3 -1 cksum 1",
            "chunk 3 1 md5 short",
            "chunk",
            "seam",
            "seam 3 4",
            "state",
            "state what",
            "state end x",
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(read(b"unheard of\n\xff\xfe\n").unwrap().items.is_empty());
    }

    #[test]
    fn a_look_takes_what_it_knows() {
        let look = Look::read(&[
            b"arch x86_64",
            b"uid 0",
            b"df none 100 20 80 20% /var/tmp dir",
            b"spool /etc",
            b"\xff",
            b"mount x",
            b"df",
        ]);
        assert_eq!(
            (look.architecture.as_str(), look.free_kib, look.spool_folder, look.mounts.len()),
            ("x86_64", None, None, 1)
        );
        let look =
            Look::read(&[b"df a b 100 20 80 20% /var/tmp", b"spool /var/tmp", b"workspace link /storage/workspace"]);
        assert_eq!((look.free_kib, look.spool_folder.as_deref()), (Some(80), Some("/var/tmp")));
    }

    #[test]
    fn an_environment_survives_line_breaks() {
        let whoami =
            Whoami::read(&[b"uid 1000", b"cwd /srv", b"env A=b\x01c", b"env PWD=/srv", b"env =x", b"env nothing"]);
        assert_eq!((whoami.uid, whoami.env), (1000, vec!["A=b\nc".to_owned()]));
    }
}
