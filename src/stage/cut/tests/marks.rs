//! overlayfs's own marks.

use super::*;

const OPAQUE: &[u8] = b"41 SCHILY.xattr.trusted.overlay.opaque=y\n";
const TEXT: &[u8] = b"31 SCHILY.xattr.user.text=here\n";

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..rest + 9).find(|length| rest + length.to_string().len() == *length).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A layer with all that was left out of it, whatever the chunks are.
fn unmarked(options: &CutOptions, tar: &[u8]) -> (Vec<Vec<u8>>, Vec<String>) {
    let cut_in = |chunk: usize| {
        let (mut cutter, mut layers, mut paths) = (Cutter::new(options.clone()), Vec::<Vec<u8>>::new(), Vec::new());
        let mut emit = |piece| {
            match piece {
                CutPiece::Begin { .. } => layers.push(Vec::new()),
                CutPiece::Bytes(bytes) | CutPiece::Own(bytes) => layers.last_mut().unwrap().extend_from_slice(&bytes),
                CutPiece::End => {}
            }
            Ok(())
        };
        for bytes in tar.chunks(chunk) {
            cutter.push(&Bytes::copy_from_slice(bytes), &mut emit).unwrap();
            paths.extend(cutter.unmarked().into_iter().map(|path| String::from_utf8(path).unwrap()));
        }
        cutter.finish(&mut emit).unwrap();
        (layers, paths)
    };
    let whole = cut_in(tar.len());
    for chunk in [1, 300, 512, 700, 1024, 5000] {
        assert!(cut_in(chunk) == whole, "chunks of {chunk}");
    }
    whole
}

#[test]
fn attributes_of_overlayfs_stay_out_of_all_layers() {
    assert_eq!(
        (OPAQUE, TEXT),
        (&*record("SCHILY.xattr.trusted.overlay.opaque", b"y"), &*record("SCHILY.xattr.user.text", b"here"))
    );
    let marks = [OPAQUE.to_vec(), record("LIBARCHIVE.xattr.user.overlay.%6frigin", b"AQ==")].concat();
    let mut entries =
        vec![pax(&marks), entry("d/", b'5', b""), pax(&[OPAQUE, TEXT].concat()), entry("d/f", b'0', b"1")];
    let expected = vec![entry("d/", b'5', b""), pax(TEXT), entry("d/f", b'0', b"1")];
    let (layers, paths) = unmarked(&CutOptions::default(), &archive(&entries));
    assert!(layers == [archive(&expected)]);
    assert_eq!(paths, ["d", "d/f"]);
    // Ancestors that are repeated neither have them.
    let more: Vec<_> = (0..40).map(|at| entry(&format!("d/{at}"), b'0', &[1; 600])).collect();
    entries.extend(more);
    let (layers, _) = unmarked(&about(4096), &archive(&entries));
    assert!(layers.len() > 3 && layers.iter().all(|layer| names(layer)[0] == "d/"));
    let is_mark = |bytes: &[u8]| bytes == b"overlay.";
    assert!(!layers.iter().any(|layer| layer.windows(8).any(is_mark)), "a mark in a layer");
}

#[test]
fn a_long_name_is_kept_where_a_record_is_not() {
    let long = entry("@LongLink", b'L', &[&[b'l'; 150][..], b"\0"].concat());
    let file = entry("l", b'0', b"content");
    let tar = archive(&[[long.clone(), pax(OPAQUE), file.clone()].concat()]);
    assert!(unmarked(&CutOptions::default(), &tar).0 == [archive(&[[long, file].concat()])]);
}

#[test]
fn whiteouts_and_links_to_them_are_left_out() {
    let mut console = block(b"console", b'3', 0);
    console[329..345].copy_from_slice(b"0000005\x000000001\0");
    seal(&mut console);
    let entries = [
        entry("gone", b'3', b""),
        console.to_vec(),
        link("gone too", "gone"),
        link("and this", "./gone too"),
        entry("gone", b'0', b"back"),
        link("back", "gone"),
    ];
    let (layers, paths) = unmarked(&CutOptions::default(), &archive(&entries));
    assert_eq!(names(&layers[0]), ["console", "gone", "back"]);
    assert_eq!(paths, ["gone", "gone too", "and this"]);
    let exclude = Exclude::new(&["gone*", "and this"]).unwrap();
    let options = CutOptions { exclude, ..CutOptions::default() };
    let (_, paths) = unmarked(&options, &archive(&entries[..4]));
    assert!(paths.is_empty(), "what was not wanted is not missed: {paths:?}");
}
