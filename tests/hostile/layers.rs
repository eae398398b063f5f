//! Layers of images: what is wrong with each is said.

use crate::host::Host;
use crate::images::{Made, TAR, header, layer_of};
use crate::run::Called::{Thaw, Verify};
use crate::run::{Case, prepared, refuse};

fn file(name: &[u8], size: u64) -> Vec<u8> {
    header(name, b'0', size)
}

/// Compresses what a function writes.
type Compress = fn(&mut dyn FnMut(&mut dyn std::io::Write)) -> Vec<u8>;

/// A header with so many bytes of zeros behind it, which a frame of zstd or a member of gzip holds, or several.
fn bomb(head: &[u8], gib: usize, compress: Compress) -> Vec<u8> {
    let zeros = vec![0; 16 << 20];
    compress(&mut |out| {
        out.write_all(head).unwrap();
        (0..gib * 64).for_each(|_| out.write_all(&zeros).unwrap());
    })
}

fn zstd(fill: &mut dyn FnMut(&mut dyn std::io::Write)) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    fill(&mut out);
    out.finish().unwrap()
}

fn gzip(fill: &mut dyn FnMut(&mut dyn std::io::Write)) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    fill(&mut out);
    out.finish().unwrap()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    gzip(&mut |out| out.write_all(bytes).unwrap())
}

/// A terabyte of zeros in 32 MB: one frame behind the other.
fn terabyte(head: &[u8]) -> Vec<u8> {
    let zeros = vec![0; 16 << 20];
    let frame = zstd(&mut |out| out.write_all(&zeros).unwrap());
    [zstd(&mut |out| out.write_all(head).unwrap()), frame.repeat(1 << 16)].concat()
}

/// An entry, and what in front of it says more.
fn extended(kind: u8, text: &[u8], entry: Vec<u8>) -> Vec<u8> {
    let mut content = text.to_vec();
    content.resize(content.len().next_multiple_of(512), 0);
    [header(b"more", kind, text.len() as u64), content, entry].concat()
}

fn linking(name: &[u8], kind: u8, target: &[u8]) -> Vec<u8> {
    let mut block = header(name, kind, 0);
    block[157..157 + target.len()].copy_from_slice(target);
    sealed(block)
}

/// With a right checksum.
fn sealed(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// GNU's old sparse map, each block of which says that one more follows.
fn endless_map() -> Vec<u8> {
    let mut head = header(b"f", b'S', 0);
    head[257..265].copy_from_slice(b"ustar  \0");
    head[482] = 1;
    let mut block = vec![0; 512];
    block[504] = 1;
    [sealed(head), block.repeat(40_000)].concat()
}

/// A layer: a name for it, its media type, its bytes, and what is said of it.
type Row = (&'static str, String, Vec<u8>, &'static str);

fn of_tar(name: &'static str, entries: &[Vec<u8>], said: &'static str) -> Row {
    (name, TAR.to_owned(), layer_of(entries), said)
}

/// What of a layer of these is said by `verify` and `thaw`, as long as its diff_id is not looked at.
fn refuse_all(host: &Host, rows: &[Row], more: &[&str]) {
    let mut cases = Vec::new();
    for (number, (name, media_type, stored, said)) in rows.iter().enumerate() {
        let made = Made::new(host, number);
        made.tagged(&made.image(media_type, stored, b"another tar"));
        for called in [Verify, Thaw] {
            let words = called.words(&made.name()).into_iter().chain(more.iter().map(|word| (*word).to_owned()));
            cases.push(Case::new(name, words.collect(), said));
        }
    }
    let wrong = refuse(host, &cases);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn bombs() {
    let (zstd_type, gzip_type) = (format!("{TAR}+zstd"), format!("{TAR}+gzip"));
    let of_zstd = |name, head: &[u8], said| (name, zstd_type.clone(), bomb(head, 2, zstd), said);
    let rows = [
        of_zstd(
            "a GNU name of 2 GiB",
            &header(b"././@LongLink", b'L', 2 << 30),
            "entry 1: an extension of more than 1 MiB",
        ),
        of_zstd("a GNU link of 2 GiB", &header(b"l", b'K', 2 << 30), "entry 1: an extension of more than 1 MiB"),
        of_zstd("a PAX record of 2 GiB", &header(b"pax", b'x', 2 << 30), "entry 1: an extension of more than 1 MiB"),
        of_zstd(
            "a global PAX record of 2 GiB",
            &header(b"g", b'g', 2 << 30),
            "entry 1: an extension of more than 1 MiB",
        ),
        of_zstd("2 GiB in a frame of zstd", &file(b"f", (2 << 30) - 4096), "the diff_id should be"),
        (
            "1 GiB in a member of gzip",
            gzip_type.clone(),
            bomb(&file(b"f", (1 << 30) - 4096), 1, gzip),
            "the diff_id should be",
        ),
    ];
    refuse_all(&prepared(), &rows, &[]);
    let rows = [
        (
            "a file of a terabyte",
            zstd_type.clone(),
            terabyte(&file(b"f", 1 << 40)),
            "unpacks to more than the 1073741824 bytes of --max-size",
        ),
        (
            "a terabyte behind the end",
            zstd_type,
            terabyte(&file(b"f", 0)),
            "unpacks to more than the 1073741824 bytes of --max-size",
        ),
        ("a gigabyte and a bit of gzip", gzip_type, bomb(&file(b"f", 1 << 30), 1, gzip), "--max-size"),
        of_tar("a file that says it is too large", &[file(b"f", 1 << 40)], "--max-size"),
    ];
    refuse_all(&prepared(), &rows, &["--max-size", "1GiB"]);
}

#[test]
fn names_and_headers() {
    let mut broken = file(b"f", 0);
    broken[0] = b'x';
    let mut negative = file(b"f", 0);
    negative[124..136].fill(0xff);
    let pax = |record: &[u8]| extended(b'x', record, file(b"f", 0));
    let good = layer_of(&[file(b"f", 0)]);
    let plain = |name, bytes: Vec<u8>, said| (name, TAR.to_owned(), bytes, said);
    let many = vec![extended(b'x', b"7 a=bc\n", Vec::new()); 9].concat();
    let rows = [
        of_tar(
            "a name that leads out",
            &[file(b"a/../../etc/passwd", 0)],
            "'a/../../etc/passwd' leaves the root with '..'",
        ),
        of_tar(
            "a link that leads out",
            &[linking(b"l", b'1', b"../../etc/passwd")],
            "'../../etc/passwd' leaves the root",
        ),
        of_tar("a long name that leads out", &[extended(b'L', b"../x\0", file(b"f", 0))], "'../x' leaves the root"),
        of_tar("a PAX name that leads out", &[pax(b"13 path=../x\n")], "'../x' leaves the root"),
        of_tar("a whiteout of ..", &[file(b"etc/.wh...", 0)], "'etc/.wh...' deletes a name that is none"),
        of_tar("a whiteout of .", &[file(b".wh..", 0)], "'.wh..' deletes a name that is none"),
        of_tar("a whiteout of nothing", &[file(b".wh.", 0)], "'.wh.' deletes a name that is none"),
        of_tar("a name with NUL", &[pax(b"12 path=a\0b\n")], "a PAX name is empty or holds a NUL"),
        of_tar("a record without an end", &[pax(b"99 path=a\n")], "a PAX record is broken"),
        of_tar("a PAX size past all bounds", &[pax(b"29 size=18446744073709551615\n")], "a size past all bounds"),
        of_tar("a PAX size of none", &[pax(b"11 size=-1\n")], "a PAX size is no number"),
        of_tar("two names", &[pax(b"10 path=a\n10 path=b\n")], "two PAX records of one key disagree"),
        of_tar("a sparse map of none", &[pax(b"22 GNU.sparse.major=x\n")], "a number of a sparse file is none"),
        of_tar("a sparse map without an end", &[endless_map()], "a sparse map past all bounds"),
        of_tar("a file of 8 EiB", &[file(b"f", u64::MAX >> 1)], "the tar, or its compression, ends early"),
        of_tar("a negative size", &[sealed(negative)], "its size is no number"),
        of_tar(
            "a folder with content",
            &[header(b"d/", b'5', 512), vec![0; 512]],
            "an entry without content has a size",
        ),
        of_tar("a type of none", &[header(b"f", b'~', 0)], "entry 1: unknown type '~'"),
        of_tar("nine extensions", &[many, file(b"f", 0)], "more extensions in front of an entry than anybody needs"),
        of_tar("an extension of nothing", &[extended(b'x', b"7 a=bc\n", Vec::new())], "headers without an entry"),
        of_tar("a wrong checksum", &[file(b"g", 0), broken], "entry 2: not a tar header (its checksum is wrong)"),
        plain("no tar", vec![b'x'; 5000], "entry 1: not a tar header (its checksum is no number)"),
        plain("more behind the end", [good.clone(), vec![1; 512]].concat(), "there is more after the tar's end mark"),
        plain("no end mark", file(b"f", 0), "the tar, or its compression, ends early"),
        plain("no bytes", Vec::new(), "the tar, or its compression, ends early"),
        plain("another diff_id", good.clone(), "the diff_id should be"),
        ("a media type of none", "text/html".to_owned(), good.clone(), "media type 'text/html' is none of a layer"),
    ];
    refuse_all(&prepared(), &rows, &[]);
}

#[test]
fn compressions() {
    let good = layer_of(&[file(b"f", 0)]);
    let zstd_of = |name, bytes: Vec<u8>, said| (name, format!("{TAR}+zstd"), bytes, said);
    let gzip_of = |name, bytes: Vec<u8>, said| (name, format!("{TAR}+gzip"), bytes, said);
    let packed = zstd(&mut |out| out.write_all(&good).unwrap());
    let mut named = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 0];
    named.resize(8 << 20, b'n');
    let rows = [
        zstd_of("no zstd", good.clone(), "its zstd can't be unpacked"),
        zstd_of("half a frame", vec![0x28, 0xb5, 0x2f, 0xfd, 0x04], "ends early"),
        zstd_of(
            "a window of 2 GiB",
            vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 1, 0, 0],
            "its zstd can't be unpacked: Frame requires too much memory",
        ),
        zstd_of("garbage behind a frame", [packed.clone(), b"garbage".to_vec()].concat(), "its zstd can't be unpacked"),
        zstd_of("a frame in a frame", zstd(&mut |out| out.write_all(&packed).unwrap()), "ends early"),
        zstd_of(
            "a frame that only is skipped",
            [vec![0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0], vec![0; 4]].concat(),
            "ends early",
        ),
        gzip_of("no gzip", good.clone(), "its gzip can't be unpacked"),
        gzip_of("half a member", gzipped(&good)[..20].to_vec(), "ends early"),
        gzip_of(
            "a member with a wrong sum",
            gzipped(&good).iter().rev().skip(8).rev().copied().chain([1; 8]).collect(),
            "its gzip can't be unpacked",
        ),
        gzip_of(
            "garbage behind a member",
            [gzipped(&good), b"garbage, and more".to_vec()].concat(),
            "its gzip can't be unpacked",
        ),
        gzip_of("a name without an end", named, "its gzip can't be unpacked"),
        gzip_of(
            "a member for each byte, of another tar",
            good.iter().flat_map(|byte| gzipped(&[*byte])).collect(),
            "the diff_id should be",
        ),
    ];
    refuse_all(&prepared(), &rows, &[]);
}

#[test]
fn images_that_can_not_be_stacked() {
    let host = prepared();
    let deep = |top: u32| {
        let name = format!("{top}/{}", "a/".repeat(500_000));
        extended(b'L', name.as_bytes(), header(b"d", b'5', 0))
    };
    let rows: [(&str, Vec<u8>, &str); 2] = [
        ("folders half a million deep", layer_of(&(0..30).map(deep).collect::<Vec<_>>()), "more than 8388608 names"),
        (
            "a link to nothing",
            layer_of(&[linking(b"l", b'1', b"nowhere")]),
            "is a hard link to 'nowhere', which is in no layer",
        ),
    ];
    let mut cases = Vec::new();
    for (number, (name, tar, said)) in rows.iter().enumerate() {
        let made = Made::new(&host, number);
        made.tagged(&made.image(TAR, tar, tar));
        cases.push(Case::new(name, Thaw.words(&made.name()), said));
    }
    let wrong = refuse(&host, &cases);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is odd, and what others make all the same.
#[test]
fn odd_layers_are_no_faults() {
    let host = prepared();
    let long = "n".repeat(5000) + "/x";
    let tar = layer_of(&[
        file(b"/absolute", 0),
        file(b"twice", 0),
        file(b"twice", 0),
        linking(b"hard", b'1', b"twice"),
        linking(b"soft", b'2', b"/etc"),
        file(b"soft/passwd", 0),
        header(b"null", b'3', 0),
        header(b"fifo", b'6', 0),
        file(b".wh.gone", 0),
        file(b".wh..wh..opq", 0),
        extended(b'L', long.as_bytes(), file(b"n", 0)),
    ]);
    let halves: Vec<_> = tar.chunks(tar.len() / 2 + 1).collect();
    let rows = [
        (TAR.to_owned(), tar.clone()),
        (format!("{TAR}+gzip"), halves.iter().flat_map(|half| gzipped(half)).collect()),
        (format!("{TAR}+zstd"), halves.iter().flat_map(|half| zstd(&mut |out| out.write_all(half).unwrap())).collect()),
    ];
    for (number, (media_type, stored)) in rows.iter().enumerate() {
        let made = Made::new(&host, number);
        made.tagged(&made.image(media_type, stored, &tar));
        host.verify(&format!("oci:{}", host.text(&format!("l{number}"))));
    }
}
