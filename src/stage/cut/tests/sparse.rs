//! Sparse maps that nobody can unpack.

use super::*;

/// An entry of GNU's old format: the parts of its map, four in the header, the others in blocks behind it.
fn old(parts: &[(u64, u64)], file_bytes: u64, content: usize) -> Vec<u8> {
    let octal = |number: u64| format!("{number:011o}\0").into_bytes();
    let mut header = block(b"old", b'S', content as u64);
    header[257..265].copy_from_slice(b"ustar  \0");
    header[483..495].copy_from_slice(&octal(file_bytes));
    let places = |block: &mut [u8], parts: &[(u64, u64)]| {
        for (at, (offset, bytes)) in parts.iter().enumerate() {
            block[24 * at..24 * at + 12].copy_from_slice(&octal(*offset));
            block[24 * at + 12..24 * at + 24].copy_from_slice(&octal(*bytes));
        }
    };
    let (first, others) = parts.split_at(parts.len().min(4));
    places(&mut header[386..482], first);
    header[482] = u8::from(!others.is_empty());
    seal(&mut header);
    let mut bytes = header.to_vec();
    let blocks: Vec<_> = others.chunks(21).collect();
    for (at, parts) in blocks.iter().enumerate() {
        let mut block = [0; BLOCK_BYTES];
        places(&mut block, parts);
        block[504] = u8::from(at + 1 < blocks.len());
        bytes.extend(block);
    }
    bytes.resize((bytes.len() + content).next_multiple_of(BLOCK_BYTES), 7);
    bytes
}

fn with_pax(records: &[(&str, &str)], content: &[u8]) -> Vec<u8> {
    let record = |(key, value): &(&str, &str)| {
        let rest = key.len() + value.len() + "  GNU.sparse.=\n".len();
        format!("{} GNU.sparse.{key}={value}\n", rest + usize::from(rest > 99) + 1)
    };
    let records: String = records.iter().map(record).collect();
    [pax(records.as_bytes()), entry("GNUSparseFile.0/x", b'0', content)].concat()
}

/// The map's text, and `data_bytes` behind it.
fn content_map(text: &str, data_bytes: usize) -> Vec<u8> {
    let mut content = text.as_bytes().to_vec();
    content.resize(content.len().next_multiple_of(BLOCK_BYTES) + data_bytes, 7);
    content
}

fn said(sparse: Vec<u8>) -> Vec<Result<(), String>> {
    let tar = archive(&[entry("before", b'0', b"1"), sparse, entry("behind", b'0', b"2")]);
    let all = [1, 100, 512, 4096].map(|chunk| match cut(&CutOptions::default(), &tar, chunk) {
        Ok(layers) => {
            assert!(layers == [tar.clone()], "as it came");
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    });
    all.to_vec()
}

#[test]
fn maps_that_can_be_followed_pass_as_they_came() {
    let many: Vec<_> = (0..60).map(|at| (at * 4096, 512)).collect();
    let one = [("major", "1"), ("minor", "0"), ("name", "x"), ("realsize", "9000")];
    for sparse in [
        old(&[(0, 512), (4096, 100), (9000, 0)], 9000, 612),
        old(&many, 60 * 4096, 60 * 512),
        with_pax(&[("size", "9000"), ("name", "x"), ("map", "0,512,4096,100,9000,0")], &[7; 612]),
        with_pax(&[("size", "9"), ("offset", "0"), ("numbytes", "5"), ("offset", "8"), ("numbytes", "1")], &[7; 6])
            .clone(),
        with_pax(&one, &content_map("3\n0\n512\n4096\n100\n9000\n0\n", 612)),
        with_pax(&one, &content_map("0\n", 0)),
    ] {
        assert!(said(sparse.clone()).iter().all(Result::is_ok), "{:?}", said(sparse));
    }
}

#[test]
fn maps_that_nobody_can_follow_are_refused_by_name() {
    let huge = u64::MAX / 8;
    for parts in [&[(0, 512), (100, 100)][..], &[(4096, 100), (0, 100)], &[(8990, 20)], &[(0, 9000)], &[(huge, huge)]] {
        let list: Vec<_> = parts.iter().map(|(offset, bytes)| format!("{offset},{bytes}")).collect();
        let text = content_map(&format!("{}\n{}\n", parts.len(), list.join("\n").replace(',', "\n")), 612);
        let one = [("major", "1"), ("minor", "0"), ("name", "x"), ("realsize", "9000")];
        let mut pairs = vec![("size".to_owned(), "9000".to_owned())];
        for (offset, bytes) in parts {
            pairs.extend([("offset".to_owned(), offset.to_string()), ("numbytes".to_owned(), bytes.to_string())]);
        }
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (&**key, &**value)).collect();
        for (form, sparse) in [
            ("1.0", with_pax(&one, &text)),
            ("0.1", with_pax(&[("size", "9000"), ("name", "x"), ("map", &list.join(","))], &[7; 612])),
            ("0.0", with_pax(&pairs, &[7; 612])),
            ("old", if parts[0].0 == huge { continue } else { old(parts, 9000, 612) }),
        ] {
            let all = said(sparse);
            assert!(all.iter().all(Result::is_err), "{form} {parts:?}: {all:?}");
            let named = |said: &Result<(), String>| said.as_ref().is_err_and(|error| error.contains("sparse map"));
            assert!(all.iter().all(named), "{form} {parts:?}: {all:?}");
        }
    }
    let endless = [("major", "1"), ("minor", "0"), ("name", "x"), ("realsize", "9000")];
    for (what, sparse) in [
        ("of another format", with_pax(&[("major", "2"), ("size", "9")], &[7; 9])),
        ("of a file of no size", with_pax(&[("map", "0,5")], &[7; 5])),
        ("twice", with_pax(&[("size", "9"), ("map", "0,5"), ("map", "0,5")], &[7; 5])),
        ("in two places", with_pax(&[("major", "1"), ("size", "9"), ("map", "0,5")], &[7; 5])),
        ("half a part", with_pax(&[("size", "9"), ("offset", "5")], &[7; 5])),
        ("longer than its content", with_pax(&endless, b"2\n0\n1\n")),
        ("in no content", with_pax(&endless, b"")),
        ("that goes on behind its end", old(&[(0, 5), (9, 0), (9, 0), (9, 0), (9, 0)], 9, 5)),
    ] {
        let mut sparse = sparse;
        if what.starts_with("that goes on") {
            // The third place is an unused one.
            sparse[386 + 48..386 + 72].fill(0);
            seal(sparse.first_chunk_mut().unwrap());
        }
        assert!(said(sparse).iter().all(Result::is_err), "{what}");
    }
}
