use std::path::Path;

use base64::Engine as _;
use proptest::prelude::*;

use super::layer::tests::{entry, sparse_forms};
use super::*;

/// The size limit for the tars of these tests, in bytes.
const LIMIT: u64 = 64 * 1024;

/// One entry of a generated tar. Its header need not match its content.
#[derive(Debug, Clone)]
struct GeneratedEntry {
    path: String,
    kind: u8,
    content: Vec<u8>,
    /// The size in the header, if it differs from the size of the content.
    claimed: Option<u64>,
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a small number")
}

fn generated_entry() -> impl Strategy<Value = GeneratedEntry> {
    let path = prop_oneof![
        4 => Just("manifest.json".to_owned()),
        4 => prop::sample::select(vec!["layer/layer.tar", "a.json", "layer/", "./b"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![
            "../up", "/etc/passwd", "a/../../b", "", ".", "./../c", "repositories", "index.json", "a//b",
        ]).prop_map(str::to_owned),
        1 => "[a-z./]{0,100}",
    ];
    let kind = prop_oneof![
        6 => Just(b'0'),
        1 => prop::sample::select(b"\x001234567LKxgSD".to_vec()),
    ];
    let content = prop_oneof![
        4 => Just(br#"[{"Config":"a.json","RepoTags":["stolen:1"],"Layers":["layer/layer.tar"]}]"#.to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..2000),
        // Exceeds the limit once it is expanded.
        1 => Just(zipped(&vec![0; 256 * 1024])),
        1 => Just(zipped(b"little")),
    ];
    let claimed = prop_oneof![9 => Just(None), 1 => any::<u64>().prop_map(Some)];
    (path, kind, content, claimed).prop_map(|(path, kind, content, claimed)| GeneratedEntry {
        path,
        kind,
        content,
        claimed,
    })
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap()
}

/// Packs the entries into a tar with valid checksums, so that the check reaches the other errors.
fn packed(entries: &[GeneratedEntry]) -> Vec<u8> {
    let mut tar = Vec::new();
    for entry in entries {
        let mut header = Header::new_old();
        header.as_mut_bytes()[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        header.set_entry_type(EntryType::new(entry.kind));
        header.set_mode(0o644);
        header.set_size(entry.claimed.unwrap_or(entry.content.len() as u64));
        header.set_cksum();
        tar.extend(header.as_bytes());
        tar.extend(&entry.content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// The tar that the daemon gets. None if the check refuses the input.
fn checked(tar: &[u8]) -> Option<Vec<u8>> {
    let (chunks, mut received) = mpsc::channel(64);
    check(&BASE64.encode(tar), LIMIT, chunks).ok()?;
    let mut passed = Vec::new();
    while let Ok(chunk) = received.try_recv() {
        passed.extend_from_slice(&chunk.unwrap());
    }
    Some(passed)
}

/// Asserts that a tar has one manifest without tags, and only plain files within the archive that
/// keep the limit.
fn is_harmless(tar: &[u8]) -> Result<(), TestCaseError> {
    let mut archive = Archive::new(tar);
    let mut manifests = 0;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let kind = entry.header().entry_type();
        prop_assert!(
            matches!(kind, EntryType::Regular | EntryType::Directory),
            "{kind:?}"
        );
        let path = entry.path().unwrap().into_owned();
        let is_inside =
            |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        prop_assert!(path.components().all(is_inside), "{path:?}");
        prop_assert!(path.components().count() <= MAX_PARTS, "{path:?}");
        prop_assert!(entry.size() <= LIMIT, "{path:?}: {}", entry.size());
        prop_assert!(
            !NAMING_FILES.iter().any(|name| path == Path::new(name)),
            "{path:?}"
        );
        if path == Path::new("manifest.json") {
            manifests += 1;
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            prop_assert!(!text.contains("RepoTags"), "{text}");
        }
    }
    prop_assert_eq!(manifests, 1);
    Ok(())
}

proptest! {
    #[test]
    fn checked_tars_only_add_an_image(entries in prop::collection::vec(generated_entry(), 0..5)) {
        if let Some(passed) = checked(&packed(&entries)) {
            is_harmless(&passed)?;
        }
    }

    #[test]
    fn damaged_tars_only_add_an_image(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
        zip: bool,
    ) {
        let mut tar = packed(&image());
        for (at, byte) in changes {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        if let Some(cut) = cut {
            tar.truncate(cut.index(tar.len()));
        }
        let tar = if zip { zipped(&tar) } else { tar };
        if let Some(passed) = checked(&tar) {
            is_harmless(&passed)?;
        }
    }
}

fn image() -> Vec<GeneratedEntry> {
    image_of(&entry("file", b'0', b"content", &[]))
}

/// An image of one layer.
fn image_of(layer: &[u8]) -> Vec<GeneratedEntry> {
    let file = |path: &str, content: &[u8]| GeneratedEntry {
        path: path.to_owned(),
        kind: b'0',
        content: content.to_vec(),
        claimed: None,
    };
    vec![
        file("a.json", b"{}"),
        file("layer/layer.tar", layer),
        file(
            "manifest.json",
            br#"[{"Config":"a.json","RepoTags":["x:1"],"Layers":["layer/layer.tar"]}]"#,
        ),
    ]
}

/// Without this, the tests above would also pass if every tar were refused.
#[test]
fn valid_image_is_passed_on() {
    for tar in [packed(&image()), zipped(&packed(&image()))] {
        is_harmless(&checked(&tar).unwrap()).unwrap();
    }
}

/// Why the check refuses a tar.
fn refusal(tar: &[u8]) -> String {
    let (chunks, _received) = mpsc::channel(64);
    check(&BASE64.encode(tar), LIMIT, chunks)
        .unwrap_err()
        .to_string()
}

#[test]
fn what_a_layer_takes_on_disk_is_limited() {
    for (form, layer) in sparse_forms(2 * LIMIT) {
        for layer in [zipped(&layer), layer] {
            let error = refusal(&packed(&image_of(&layer)));
            assert!(error.contains("unpacks to more"), "{form}: {error}");
        }
    }
    let (_, little) = &sparse_forms(LIMIT / 4)[0];
    assert!(checked(&packed(&image_of(little))).is_some());
}

#[test]
fn a_layer_counts_as_often_as_it_is_named() {
    let layer = entry("file", b'0', &vec![1; size(LIMIT) / 4], &[]);
    let mut image = image_of(&layer);
    let manifest = |times: usize| {
        let layers = vec!["./layer//layer.tar"; times];
        let manifest = serde_json::json!([{ "Config": "a.json", "Layers": layers }]);
        manifest.to_string().into_bytes()
    };
    image[2].content = manifest(3);
    assert!(checked(&packed(&image)).is_some());
    image[2].content = manifest(4);
    let error = refusal(&packed(&image));
    assert!(error.contains("layers that unpack to more"), "{error}");
    // It makes no difference whether the manifest comes first.
    image.rotate_right(1);
    assert_eq!(refusal(&packed(&image)), error);
}

#[test]
fn the_daemon_gets_nothing_else_of_a_manifest() {
    let mut image = image();
    let manifest = serde_json::json!([{
        "Config": "./a.json", "Layers": ["layer/layer.tar"], "RepoTags": ["x:1"],
        "repotags": ["y:1"], "Parent": "sha256:0", "LayerSources": {},
    }]);
    image[2].content = manifest.to_string().into_bytes();
    let passed = checked(&packed(&image)).unwrap();
    let mut text = String::new();
    for entry in Archive::new(passed.as_slice()).entries().unwrap() {
        // It is the last.
        text.clear();
        entry.unwrap().read_to_string(&mut text).unwrap();
    }
    assert_eq!(
        text,
        r#"[{"Config":"a.json","Layers":["layer/layer.tar"]}]"#
    );
}

#[test]
fn a_layer_must_be_one() {
    let cases = [
        (&b"no tar at all"[..], "is damaged"),
        (b"BZh91AY&SY and more", "other than gzip"),
        // A frame that zstd skips, whose start is also the name in a tar's header.
        (&entry("\x5e*M\x18", b'0', b"", &[]), "other than gzip"),
        (&zipped(b"no tar"), "is damaged"),
    ];
    for (layer, said) in cases {
        let error = refusal(&packed(&image_of(layer)));
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn names_are_limited() {
    let with = |path: &str| {
        let mut image = image();
        let mut first = image[0].clone();
        first.path = path.to_owned();
        image.push(first);
        packed(&image)
    };
    let deep = "a/".repeat(MAX_PARTS);
    assert!(refusal(&with(&format!("{deep}b"))).contains("too long"));
    assert!(refusal(&with("layer/./layer.tar")).contains("two files"));
    assert!(checked(&with("oci-layout")).is_some());
    // What would be read as one header.
    let long = entry("long", b'L', &vec![b'a'; 2 * size(MAX_HEADER)], &[]);
    let (chunks, _received) = mpsc::channel(64);
    let tar = [long, packed(&image())].concat();
    let error = check(&BASE64.encode(tar), u64::MAX, chunks).unwrap_err();
    assert!(error.to_string().contains("headers of more"), "{error}");
}

/// The compression is found out however the first bytes arrive.
#[test]
fn the_first_bytes_of_a_layer_may_come_one_by_one() {
    struct Slow<R>(R);
    impl<R: Read> Read for Slow<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let end = buffer.len().min(1);
            self.0.read(&mut buffer[..end])
        }
    }
    let layer = zipped(&entry("file", b'0', &vec![1; 2 * size(LIMIT)], &[]));
    let mut metered = Metered {
        inner: Slow(layer.as_slice()),
        content: Content::new(LIMIT),
        bytes: 0,
    };
    let error = io::copy(&mut metered, &mut io::sink()).unwrap_err();
    assert!(error.to_string().contains("unpacks to more"), "{error}");
}
