use super::*;
use crate::error;
use crate::stage::header::tests::{block, seal};

mod layers;
mod marks;
mod order;
mod sparse;

fn entry(name: &str, flag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = block(name.as_bytes(), flag, content.len() as u64).to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes
}

fn link(name: &str, target: &str) -> Vec<u8> {
    let mut header = block(name.as_bytes(), b'1', 0);
    header[157..157 + target.len()].copy_from_slice(target.as_bytes());
    seal(&mut header);
    header.to_vec()
}

fn pax(records: &[u8]) -> Vec<u8> {
    entry("PaxHeaders/x", b'x', records)
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), END_MARK.to_vec()].concat()
}

/// The layers as bytes, cut from `tar` in chunks of `chunk` bytes.
fn cut(options: &CutOptions, tar: &[u8], chunk: usize) -> Result<Vec<Vec<u8>>> {
    let mut layers: Vec<Vec<u8>> = Vec::new();
    let mut emit = |piece| {
        match piece {
            CutPiece::Begin { .. } => layers.push(Vec::new()),
            CutPiece::Bytes(bytes) | CutPiece::Own(bytes) => layers.last_mut().unwrap().extend_from_slice(&bytes),
            CutPiece::End => assert_eq!(layers.last().unwrap().len() % BLOCK_BYTES, 0),
        }
        Ok(())
    };
    let mut cutter = Cutter::new(options.clone());
    for bytes in tar.chunks(chunk) {
        cutter.push(&Bytes::copy_from_slice(bytes), &mut emit)?;
    }
    cutter.finish(&mut emit)?;
    Ok(layers)
}

fn about(bytes: u64) -> CutOptions {
    CutOptions { layer_size: LayerSize::About(bytes), ..CutOptions::default() }
}

fn names(layer: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while let Some(block) = layer.get(at..at + BLOCK_BYTES).filter(|block| block.iter().any(|byte| *byte != 0)) {
        let header = crate::stage::header::parse(block.try_into().unwrap()).unwrap();
        names.push(String::from_utf8(header.name).unwrap());
        at += BLOCK_BYTES + usize::try_from(padded(header.size)).unwrap();
    }
    names
}

fn sample() -> Vec<u8> {
    let mut entries = vec![entry("./", b'5', b""), entry("./a/", b'5', b""), entry("./a/b/", b'5', b"")];
    for at in 0..60 {
        entries.push(pax(b"30 mtime=1700000000.123456789\n"));
        entries.push(entry(&format!("./a/b/{at}"), b'0', &vec![b'x'; at * 40]));
    }
    entries.extend([entry("./c/", b'5', b""), entry("./c/z", b'0', &[b'z'; 9000])]);
    archive(&entries)
}

#[test]
fn one_layer_is_the_tar_itself() {
    let tar = sample();
    assert!(cut(&CutOptions::default(), &tar, 4096).unwrap() == [tar]);
}

#[test]
fn any_chunking_gives_the_same_layers_and_no_entry_is_lost() {
    let tar = sample();
    let layers = cut(&about(10_000), &tar, tar.len()).unwrap();
    assert!(layers.len() > 5, "{}", layers.len());
    for chunk in [1, 7, 511, 512, 513, 1500, 4096, 10_240] {
        assert!(cut(&about(10_000), &tar, chunk).unwrap() == layers, "chunks of {chunk}");
    }
    let mut all: Vec<_> = layers.iter().flat_map(|layer| names(layer)).filter(|name| !name.ends_with('/')).collect();
    let mut expected: Vec<_> = names(&tar).into_iter().filter(|name| !name.ends_with('/')).collect();
    all.sort();
    expected.sort();
    assert_eq!(all, expected);
}

#[test]
fn every_layer_begins_with_the_ancestors_of_its_first_entry() {
    let layers = cut(&about(10_000), &sample(), 4096).unwrap();
    for layer in &layers[..layers.len() - 1] {
        assert_eq!(names(layer)[..3], ["./", "./a/", "./a/b/"]);
    }
}

#[test]
fn an_ancestor_is_repeated_with_its_own_header_blocks() {
    let directory = [pax(b"30 mtime=1700000000.123456789\n"), entry("d/", b'5', b"")].concat();
    let mut entries = vec![directory.clone()];
    entries.extend((0..40).map(|at| entry(&format!("d/{at}"), b'0', &[1; 600])));
    let layers = cut(&about(8192), &archive(&entries), 1000).unwrap();
    assert!(layers.len() > 1);
    assert!(layers.iter().all(|layer| layer.starts_with(&directory)));
}

#[test]
fn links_stay_with_their_file() {
    let mut entries: Vec<_> = (0..30).map(|at| entry(&format!("f{at}"), b'0', &[1; 700])).collect();
    for at in 0..30 {
        entries.push(entry(&format!("first{at}"), b'0', &[1; 700]));
        entries.extend((0..5).map(|name| link(&format!("second{at}-{name}"), &format!("./first{at}"))));
    }
    let layers = cut(&about(6000), &archive(&entries), 512).unwrap();
    assert!(layers.len() > 5);
    let error = cut(&about(6000), &archive(&[entries, vec![link("late", "f0")]].concat()), 512).unwrap_err();
    assert!(error.to_string().contains("'late'") && error.to_string().contains("'f0'"), "{error}");
}

#[test]
fn a_link_to_itself_is_refused() {
    let error = cut(&CutOptions::default(), &archive(&[entry("a", b'0', b"1"), link("./a", "a")]), 512).unwrap_err();
    assert!(error.to_string().contains("'./a'") && error.to_string().contains("itself"), "{error}");
}

#[test]
fn a_folder_can_have_layers_of_its_own() {
    let names_in = ["./", "./a", "./workspace/", "./workspace/x", "./workspaces"];
    let entries: Vec<_> =
        names_in.iter().map(|name| entry(name, if name.ends_with('/') { b'5' } else { b'0' }, b"")).collect();
    let options = CutOptions { own_layers: vec![b"workspace".to_vec()], ..CutOptions::default() };
    let layers = cut(&options, &archive(&entries), 512).unwrap();
    let layers: Vec<_> = layers.iter().map(|layer| names(layer)).collect();
    assert_eq!(layers, [vec!["./", "./a"], vec!["./", "./workspace/", "./workspace/x"], vec!["./", "./workspaces"]]);
}

/// Of each layer, whether it is one of `/workspace`.
fn workspace_flags(options: &CutOptions, entries: &[Vec<u8>]) -> Result<Vec<bool>> {
    let (mut cutter, mut flags) = (Cutter::new(options.clone()), Vec::new());
    let mut emit = |piece| {
        if let CutPiece::Begin { workspace } = piece {
            flags.push(workspace);
        }
        Ok(())
    };
    cutter.push(&archive(entries).into(), &mut emit)?;
    cutter.finish(&mut emit)?;
    Ok(flags)
}

#[test]
fn a_layer_of_the_workspace_holds_nothing_else() {
    let file = |name| entry(name, b'0', b"1");
    let mut options = CutOptions { own_layers: vec![WORKSPACE.to_vec()], ..CutOptions::default() };
    let entries = [file("a"), file("workspace/x"), link("workspace/y", "workspace/x"), file("z")];
    assert_eq!(workspace_flags(&options, &entries).unwrap(), [false, true, false]);
    assert_eq!(workspace_flags(&CutOptions::default(), &entries).unwrap(), [false]);
    // Where links may go back as far as here, too.
    options.whole_from = Some(0);
    assert_eq!(workspace_flags(&options, &entries).unwrap(), [false, true, false]);
    for (crossing, hint) in [
        ([file("a"), link("workspace/y", "a"), file("z")], "--exclude"),
        ([file("workspace/x"), link("z", "workspace/x"), file("zz")], "--exclude"),
        ([file("a"), file("workspace/x"), link("z", "a")], "dir:PATH"),
    ] {
        let error = workspace_flags(&options, &crossing).unwrap_err().to_string();
        assert!(error.contains("it is a link to") && error.contains(hint), "{error}");
    }
}

#[test]
fn hostile_names_are_refused_and_can_be_left_out() {
    for (name, pattern) in [("../x", "../x"), ("/etc/x", "/etc/x"), ("a/.wh.x", ".wh.x"), ("a/../../x", "a/../../x")] {
        let tar = archive(&[entry("ok", b'0', b"1"), entry(name, b'0', b"22"), entry("end", b'0', b"3")]);
        let error = cut(&CutOptions::default(), &tar, 512).unwrap_err();
        assert_eq!(error.kind(), error::Kind::Source);
        assert!(error.to_string().contains(&format!("'{name}'")) && error.to_string().contains("--exclude"), "{error}");
        let exclude = Exclude::new(&[pattern]).unwrap();
        let layers = cut(&CutOptions { exclude, ..CutOptions::default() }, &tar, 100).unwrap();
        assert_eq!(names(&layers[0]), ["ok", "end"], "{name}");
    }
}

#[test]
fn what_is_left_out_takes_its_content_along() {
    let tar = archive(&[
        entry("a", b'0', &[1; 5000]),
        entry("cache/", b'5', b""),
        entry("cache/x", b'0', &[2; 5000]),
        entry("z", b'0', b"3"),
    ]);
    let options = CutOptions { exclude: Exclude::new(&["/cache"]).unwrap(), ..CutOptions::default() };
    for chunk in [1, 300, 512, 100_000] {
        assert_eq!(
            cut(&options, &tar, chunk).unwrap(),
            [archive(&[entry("a", b'0', &[1; 5000]), entry("z", b'0', b"3")])]
        );
    }
}

#[test]
fn a_refusal_names_the_same_byte_for_any_chunking() {
    let damaged = [archive(&[entry("a", b'0', &[1; 700])])[..1536].to_vec(), vec![1; 512]].concat();
    for chunk in [1, 300, 512, 700, 5000] {
        let error = cut(&CutOptions::default(), &damaged, chunk).unwrap_err().to_string();
        assert!(error.contains("byte 1536:"), "chunks of {chunk}: {error}");
    }
}

#[test]
fn contradictions_are_refused() {
    let with_pax_size = |records: &[u8], size| {
        let mut tar = pax(records);
        tar.extend(block(b"contradiction", b'0', size));
        tar.extend([0; 1024]);
        tar.extend(END_MARK);
        cut(&CutOptions::default(), &tar, 512)
    };
    assert!(with_pax_size(b"12 size=513\n", 0).is_ok(), "the record wins where the field says nothing");
    let error = with_pax_size(b"12 size=513\n", 600).unwrap_err().to_string();
    assert!(error.contains("'contradiction'") && error.contains("513") && error.contains("600"), "{error}");
    let twice = [pax(b"8 a=bcd\n"), pax(b"8 a=bcd\n"), entry("twice", b'0', b"")].concat();
    assert!(cut(&CutOptions::default(), &archive(&[twice]), 512).is_err());
    let global = [entry("g", b'g', b"11 size=99\n"), entry("f", b'0', b"")].concat();
    assert!(cut(&CutOptions::default(), &archive(&[global]), 512).is_err());
    let comment = [entry("g", b'g', b"13 comment=x\n"), entry("f", b'0', b"")].concat();
    assert!(cut(&CutOptions::default(), &archive(&[comment]), 512).is_ok());
}

#[test]
fn what_two_readers_understand_differently_is_refused() {
    let file = entry("f", b'0', b"");
    let mut no_format = entry("x", b'L', b"name\0");
    let mut prefixed = entry("/f", b'0', b"");
    for (tar, at, bytes) in [(&mut no_format, 257, &[0; 8][..]), (&mut prefixed, 263, b"99")] {
        tar[at..at + bytes.len()].copy_from_slice(bytes);
        tar[345] = b'p';
        seal(tar.first_chunk_mut().unwrap());
    }
    for (what, headers) in [
        ("the first record or the last", pax(b"10 path=a\n10 path=b\n")),
        ("no name or an empty one", pax(b"8 path=\n")),
        ("a name for those who know sparse files", pax(b"13 path=../x\n21 GNU.sparse.name=a\n")),
        ("its field for the others", [pax(b"21 GNU.sparse.name=a\n"), entry("/x", b'0', b"")].concat()),
        ("to the first NUL or the last", entry("x", b'L', b"a\0/../x\0")),
        ("whose records are these", [pax(b"10 path=a\n"), entry("g", b'g', b"13 comment=x\n")].concat()),
        ("an extension or an entry", no_format),
        ("prefix or not", prefixed),
    ] {
        assert!(cut(&CutOptions::default(), &archive(&[headers, file.clone()]), 512).is_err(), "{what}");
    }
}

#[test]
fn a_long_name_is_a_directory_by_its_own_end() {
    // GNU tar leaves the first 100 bytes in the field, and the last of them may be a slash.
    let long = format!("{}/file", "d".repeat(99));
    let long_link = [entry("@LongLink", b'K', long.as_bytes()), link("second", "")].concat();
    let file = [entry("@LongLink", b'L', long.as_bytes()), entry(&long[..100], b'0', b"")].concat();
    cut(&about(4096), &archive(&[file, long_link]), 512).expect("a link to a file");
}

#[test]
fn a_truncated_stream_is_an_error_at_any_byte() {
    let tar = archive(&[entry("a", b'0', &[1; 700]), pax(b"8 a=bcd\n"), entry("b", b'0', b"2")]);
    for length in 0..tar.len() {
        let error = cut(&CutOptions::default(), &tar[..length], 512).expect_err("truncated");
        assert!(error.to_string().contains("cut off"), "{error}");
    }
    let error = cut(&CutOptions::default(), &tar[..1000], 512).unwrap_err();
    assert!(error.to_string().contains("'a'"), "{error}");
}

#[test]
fn two_archives_in_one_file_are_no_silent_loss() {
    let tar = archive(&[entry("a", b'0', b"")]);
    assert!(
        cut(&CutOptions::default(), &[tar.clone(), vec![0; 8192]].concat(), 700).is_ok(),
        "GNU tar pads with zeros"
    );
    assert!(cut(&CutOptions::default(), &[tar.clone(), tar].concat(), 700).is_err());
}

#[test]
fn a_tar_that_is_too_large_is_refused() {
    let options = CutOptions { tar_bytes_max: Some(2000), ..CutOptions::default() };
    assert!(cut(&options, &sample(), 512).unwrap_err().to_string().contains("--max-size"));
}

/// Its own name comes after them.
#[test]
fn an_entry_with_too_long_headers_is_told_by_what_they_are_called() {
    let records = vec![b'x'; 1 << 20];
    let error = cut(&about(1), &archive(&[pax(&records), entry("x", b'0', b"")]), 512).unwrap_err().to_string();
    assert!(
        error.contains("the extension header 'PaxHeaders/x'") && error.contains("1048576 bytes of headers"),
        "{error}"
    );
}
