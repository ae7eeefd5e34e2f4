use proptest::prelude::*;
use tar::{Builder, EntryType};

use super::*;

const MIB: u64 = 1 << 20;
/// Far more than any of these layers takes.
const LIMIT: u64 = 1 << 40;

/// An entry with its content, and fields that are set by their offset in the header.
pub(in crate::docker::tar) fn entry(
    name: &str,
    kind: u8,
    content: &[u8],
    fields: &[(usize, &[u8])],
) -> Vec<u8> {
    let mut header = [0; BLOCK];
    let size = format!("{:011o}", content.len());
    let kind = [kind];
    let usual: [(usize, &[u8]); 6] = [
        (0, name.as_bytes()),
        (100, b"0000644"),
        (124, size.as_bytes()),
        (148, b"        "),
        (156, &kind),
        (257, b"ustar\x0000"),
    ];
    for (offset, bytes) in usual.iter().chain(fields) {
        header[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut entry = [&header, content].concat();
    entry.resize(entry.len().next_multiple_of(BLOCK), 0);
    entry
}

/// An extended header with these records.
pub(in crate::docker::tar) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let lengths = rest.len()..;
        let length = lengths
            .into_iter()
            .find(|length| length.to_string().len() + rest.len() == *length);
        body.extend([&length.unwrap().to_string(), &rest].map(String::as_str));
    }
    entry("pax", b'x', body.as_bytes(), &[])
}

/// The four forms of a file of `size` bytes that consists of a hole.
pub(in crate::docker::tar) fn sparse_forms(size: u64) -> [(&'static str, Vec<u8>); 4] {
    let (text, octal) = (size.to_string(), format!("{size:011o}"));
    let mut map = format!("1\n{size}\n0\n").into_bytes();
    map.resize(BLOCK, 0);
    let gnu = octal.as_bytes();
    let versioned = pax(&[
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "hole"),
        ("GNU.sparse.realsize", &text),
    ]);
    let listed = pax(&[
        ("GNU.sparse.size", &text),
        ("GNU.sparse.numblocks", "1"),
        ("GNU.sparse.offset", &text),
        ("GNU.sparse.numbytes", "0"),
    ]);
    let mapped = pax(&[
        ("GNU.sparse.size", &text),
        ("GNU.sparse.numblocks", "1"),
        ("GNU.sparse.map", &format!("{text},0")),
    ]);
    let file = entry("hole", b'0', b"", &[]);
    let old = [
        (257, &b"ustar  \0"[..]),
        (386, gnu),
        (398, b"00000000000"),
        (483, gnu),
    ];
    [
        (
            "PAX 1.0",
            [versioned, entry("hole", b'0', &map, &[])].concat(),
        ),
        ("PAX 0.0", [listed, file.clone()].concat()),
        ("PAX 0.1", [mapped, file].concat()),
        ("GNU", entry("hole", b'S', b"", &old)),
    ]
}

/// What these entries take as a layer.
fn unpacked(entries: &[Vec<u8>]) -> Result<u64, LayerError> {
    measured(&entries.concat(), usize::MAX)
}

fn measured(layer: &[u8], piece: usize) -> Result<u64, LayerError> {
    let mut meter = LayerMeter::new(LIMIT);
    for piece in layer.chunks(piece) {
        if meter.write_all(piece).is_err() {
            return Err(meter.error().unwrap());
        }
    }
    meter.finish()
}

#[test]
fn a_hole_counts_as_what_is_written() {
    for (form, entries) in sparse_forms(300 * MIB) {
        let bytes = entries.len() as u64;
        let end = vec![0; 2 * BLOCK];
        let unpacked = unpacked(&[entries, entry("next", b'0', b"x", &[]), end]);
        let least = 300 * MIB + bytes;
        let unpacked = unpacked.unwrap_or_else(|error| panic!("{form}: {error}"));
        assert!(
            (least..least + 16 * 1024).contains(&unpacked),
            "{form}: {unpacked}"
        );
    }
}

/// The blocks of a long map are not part of the content.
#[test]
fn a_long_map_of_a_sparse_file_is_skipped() {
    let size = format!("{:011o}", 5 * MIB);
    let old: [(usize, &[u8]); 3] = [(257, b"ustar  \0"), (482, b"\x01"), (483, size.as_bytes())];
    let header = entry("hole", b'S', &[], &old);
    let (mut more, mut last) = (vec![b'0'; BLOCK], vec![b'0'; BLOCK]);
    (more[504], last[504]) = (1, 0);
    let next = entry("next", b'0', &[7; 10], &[]);
    let unpacked = unpacked(&[header, more, last, next]).unwrap();
    assert!(
        (5 * MIB..5 * MIB + 16 * 1024).contains(&unpacked),
        "{unpacked}"
    );
}

#[test]
fn folders_links_and_empty_files_take_a_block() {
    let deep = format!("{}/file", "a/".repeat(30));
    for (name, kind, names) in [
        ("folder/", b'5', 1),
        ("link", b'2', 1),
        ("file", b'0', 1),
        (deep.as_str(), b'0', 31),
    ] {
        let entry = entry(name, kind, b"", &[]);
        assert_eq!(unpacked(&[entry]), Ok(512 + names * DISK_BLOCK), "{name}");
    }
    // The second is in a folder of the first.
    let both = [
        entry("a/b/c", b'0', b"", &[]),
        entry("a/b/d", b'0', b"", &[]),
    ];
    assert_eq!(unpacked(&both), Ok(1024 + 4 * DISK_BLOCK));
    let long = entry(
        "long",
        b'L',
        format!("{}f", "a/".repeat(900)).as_bytes(),
        &[],
    );
    let unpacked = unpacked(&[long, entry("x", b'0', b"", &[])]).unwrap();
    assert!(unpacked > 900 * DISK_BLOCK, "{unpacked}");
}

#[test]
fn a_content_takes_whole_blocks() {
    let file = entry("file", b'0', &[1; 5000], &[]);
    assert_eq!(unpacked(&[file]), Ok(512 + 5120 + 2 * DISK_BLOCK - 5000));
    // The size of a link means nothing; the next header follows at once.
    let link = entry("link", b'1', b"", &[(124, b"00000007777")]);
    assert_eq!(unpacked(&[link]), Ok(512 + DISK_BLOCK));
    let replaced = [
        pax(&[("size", "5000")]),
        entry("file", b'0', &[1; 5000], &[]),
    ];
    assert_eq!(
        unpacked(&replaced),
        Ok(1024 + 512 + 5120 + 2 * DISK_BLOCK - 5000)
    );
}

#[test]
fn what_programs_understand_differently_is_refused() {
    let file = || entry("file", b'0', b"x", &[]);
    let long = vec![b'a'; usize::try_from(MAX_EXTENSION).unwrap() + 1];
    let copied = entry("copy", b'1', b"", &[(157, b"./.wh..wh.plnk/1.2")]);
    let cases = [
        (LayerError::Ambiguous, vec![pax(&[]), pax(&[]), file()]),
        (
            LayerError::Ambiguous,
            vec![pax(&[]), entry("all", b'g', b"", &[]), file()],
        ),
        (LayerError::Ambiguous, vec![entry("folder/", 0, b"x", &[])]),
        (LayerError::CopiedLinks, vec![copied]),
        (
            LayerError::CopiedLinks,
            vec![pax(&[("linkpath", ".wh..wh.plnk/1.2")]), file()],
        ),
        (
            LayerError::LongHeader,
            vec![entry("x", b'L', &long, &[]), file()],
        ),
        (LayerError::Damaged, vec![pax(&[("size", "-1")]), file()]),
        (
            LayerError::Damaged,
            vec![entry("x", b'0', b"", &[(124, b"\xff")])],
        ),
        (LayerError::Damaged, vec![b"no header".repeat(100)]),
        (LayerError::Damaged, vec![file()[..700].to_vec()]),
        (LayerError::Damaged, vec![pax(&[("path", "last")])]),
    ];
    for (at, (error, entries)) in cases.into_iter().enumerate() {
        assert_eq!(unpacked(&entries), Err(error), "case {at}");
    }
}

#[test]
fn the_limit_ends_the_reading() {
    let mut meter = LayerMeter::new(10 * MIB);
    let [(_, entries), ..] = sparse_forms(300 * MIB);
    assert!(meter.write_all(&entries).is_err());
    assert_eq!(meter.error(), Some(LayerError::TooLarge));
    assert_eq!(meter.finish(), Err(LayerError::TooLarge));
}

/// Files as the `tar` crate writes them: name, size, whether it is a folder.
fn files() -> impl Strategy<Value = Vec<(String, usize, bool)>> {
    let name = prop_oneof![3 => "[a-c]/[a-c]{1,3}", 1 => "[a-z]{150,300}", 1 => "[a-c]{1,90}(/[a-c]{1,90}){1,3}"];
    prop::collection::vec((name, 0_usize..10_000, prop::bool::weighted(0.2)), 0..8)
}

fn archive(files: &[(String, usize, bool)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, size, is_folder) in files {
        let mut header = tar::Header::new_gnu();
        let size = if *is_folder { 0 } else { *size };
        header.set_size(size as u64);
        header.set_mode(0o644);
        if *is_folder {
            header.set_entry_type(EntryType::Directory);
        }
        tar.append_data(&mut header, name, vec![1; size].as_slice())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

proptest! {
    #[test]
    fn another_reader_finds_no_more_than_is_counted(files in files(), piece in 1_usize..2000) {
        let layer = archive(&files);
        let unpacked = measured(&layer, piece).unwrap();
        prop_assert_eq!(measured(&layer, usize::MAX), Ok(unpacked));
        let mut archive = tar::Archive::new(layer.as_slice());
        let (mut content, mut entries) = (0, 0);
        for entry in archive.entries().unwrap() {
            content += entry.unwrap().size().next_multiple_of(DISK_BLOCK);
            entries += 1;
        }
        prop_assert_eq!(entries, files.len());
        prop_assert!(unpacked >= content.max(layer.len() as u64));
        // Names and folders are counted, but not beyond reason.
        let most = content + layer.len() as u64 + 6 * DISK_BLOCK * files.len() as u64;
        prop_assert!(unpacked <= most, "{unpacked} of {most}");
    }

    #[test]
    fn no_layer_makes_the_meter_panic(
        files in files(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        sum: bool,
    ) {
        let mut layer = archive(&files);
        for (at, byte) in changes {
            let at = at.index(layer.len());
            layer[at] = byte;
            let start = at / BLOCK * BLOCK;
            if sum {
                // A right checksum, so that the fields are read.
                layer[start + 148..start + 156].fill(b' ');
                let sum: u32 = layer[start..start + BLOCK].iter().copied().map(u32::from).sum();
                layer[start + 148..start + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let _ = measured(&layer, 300);
    }
}
