//! Text of others, made safe to print: the one place that decides how. Pure.
//!
//! Names of files, what a guest or a registry says, and what an image says of itself may hold anything: an escape
//! sequence that paints over the terminal, a new line that forges one of ours. What is printed has neither. JSON needs
//! none of this, for it has escapes of its own.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// A name that is any bytes, for people. What can't be printed is escaped, and so is the backslash: two names never look
/// the same.
#[must_use]
pub fn name(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => shown.push_str(r"\\"),
                char if is_hidden(char) => escape(char, &mut shown),
                char => shown.push(char),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// [`name`], in quotes.
#[must_use]
pub fn quoted(bytes: &[u8]) -> String {
    format!("'{}'", name(bytes))
}

/// A word for a shell to take, whatever its bytes are. Where quotes don't do, it is in the form `$'…'` of bash, ksh and zsh.
#[must_use]
pub fn shell(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-+./:,@%".contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(is_plain) => return text.to_owned(),
        Ok(text) if !text.contains(['\'', '\\']) && !text.chars().any(is_hidden) => return format!("'{text}'"),
        Ok(text) if !text.contains(['"', '\\', '$', '`', '!']) && !text.chars().any(is_hidden) => {
            return format!("\"{text}\"");
        }
        _ => {}
    }
    let mut word = String::from("$'");
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\'' | '\\' => word.extend(['\\', char]),
                char if is_hidden(char) => {
                    let mut bytes = [0; 4];
                    octal(char.encode_utf8(&mut bytes).as_bytes(), &mut word);
                }
                char => word.push(char),
            }
        }
        octal(chunk.invalid(), &mut word);
    }
    word + "'"
}

/// Three digits always, so that what follows is no part of them.
fn octal(bytes: &[u8], word: &mut String) {
    for byte in bytes {
        let _ = write!(word, "\\{byte:03o}");
    }
}

/// A text that becomes one line, or a part of one. Backslashes stay: escaped names in it are not escaped again.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        if is_hidden(char) { escape(char, &mut shown) } else { shown.push(char) }
    }
    Cow::Owned(shown)
}

/// Several lines, each made safe by itself.
#[must_use]
pub fn lines<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> String {
    let mut shown = String::new();
    for text in texts {
        if !shown.is_empty() {
            shown.push('\n');
        }
        shown.push_str(&line(text.as_ref()));
    }
    shown
}

/// What is written to it goes on as a part of one line.
pub struct Line<'a, 'b>(pub &'a mut fmt::Formatter<'b>);

impl fmt::Write for Line<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&line(text))
    }
}

/// Control characters (C1 among them, which some terminals obey), and what turns the direction of a line, ends one, or
/// has no width: text that reads as another text (CVE-2021-42574).
#[must_use]
pub fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn escape(char: char, shown: &mut String) {
    let _ = match char {
        '\n' => shown.write_str(r"\n"),
        '\r' => shown.write_str(r"\r"),
        '\t' => shown.write_str(r"\t"),
        char if char.is_ascii() => write!(shown, "\\x{:02x}", u32::from(char)),
        char => write!(shown, "\\u{{{:x}}}", u32::from(char)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_letters() {
        for (bytes, shown) in [
            (&b"plain/name.txt"[..], "plain/name.txt"),
            ("täst 日本".as_bytes(), "täst 日本"),
            (b"so\x1b[31m\nfrozen", r"so\x1b[31m\nfrozen"),
            (b"\r\t\0\x7f", r"\r\t\x00\x7f"),
            (b"k\xffey\xc3", r"k\xffey\xc3"),
            ("c1 \u{9b}31m".as_bytes(), r"c1 \u{9b}31m"),
            ("exe.\u{202e}txt\u{2028}\u{200b}".as_bytes(), r"exe.\u{202e}txt\u{2028}\u{200b}"),
            (br"\x1b", r"\\x1b"),
        ] {
            assert_eq!(name(bytes), shown);
            assert_eq!(quoted(bytes), format!("'{shown}'"));
        }
    }

    #[test]
    fn a_line_stays_one_and_is_escaped_once() {
        let text = "reading failed: 'a\u{1b}[2J'\nfrozen oci:evil";
        let once = line(text).into_owned();
        assert_eq!(once, r"reading failed: 'a\x1b[2J'\nfrozen oci:evil");
        assert_eq!(line(&once), once);
        assert_eq!(line(&name(b"a\\\n")), r"a\\\n");
        assert!(matches!(line("täst"), Cow::Borrowed("täst")));
        assert_eq!(lines(["a\nb", "c"]), "a\\nb\nc");
    }

    #[test]
    fn a_shell_takes_the_word_back() {
        let words: Vec<Vec<u8>> = (1..=255_u8)
            .flat_map(|byte| [vec![byte], vec![b'a', byte, b'7'], vec![b'\'', byte, b'"']])
            .chain(["", "/a b", "it's", "$HOME", "~", "\u{202e}1", "a\\'b", "-x"].map(|text| text.as_bytes().to_vec()))
            .collect();
        let shown: Vec<_> = words.iter().map(|word| shell(word)).collect();
        assert!(shown.iter().all(|word| line(word) == *word));
        let script = format!("printf '%s\\0' {}", shown.join(" "));
        let said = std::process::Command::new("bash").args(["-c", &script]).output().unwrap().stdout;
        let expected: Vec<u8> = words.iter().flat_map(|word| [word.as_slice(), b"\0"].concat()).collect();
        assert!(said == expected, "{script}");
        assert_eq!(
            (shell(b"oci:./a"), shell(b"a b"), shell(b"it's")),
            ("oci:./a".into(), "'a b'".into(), "\"it's\"".into())
        );
        assert_eq!(shell(b"k\xffey"), r"$'k\377ey'");
    }

    #[test]
    fn different_names_look_different() {
        let alphabet: Vec<Vec<u8>> = (0..=255_u8)
            .map(|byte| vec![byte])
            .chain(["\u{9b}", "\u{202e}", "ä", r"\n", r"\x", "0a", "u{9b}"].map(|text| text.as_bytes().to_vec()))
            .collect();
        let mut seen = std::collections::HashMap::new();
        for one in &alphabet {
            for other in &alphabet {
                let bytes = [one.clone(), other.clone()].concat();
                if let Some(before) = seen.insert(name(&bytes), bytes.clone()) {
                    assert_eq!(before, bytes);
                }
            }
        }
    }
}
