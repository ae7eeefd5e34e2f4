//! The header block of a tar entry, read as Go's `archive/tar` reads it.

use super::layer::until_nul;

/// The size of a header, and the unit of an archive, in bytes.
pub(super) const BLOCK: usize = 512;

/// What an entry is, as far as it matters for its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An extended header of the next file.
    Pax,
    /// An extended header of all files that follow.
    GlobalPax,
    /// GNU's extended headers of the next file.
    LongName,
    LongLink,
    /// A sparse file in GNU's old form.
    GnuSparse,
    /// Links, devices, folders and pipes: their size does not count.
    NoContent,
    /// A file in the form of the first tar, which has no mark for folders.
    OldFile,
    /// Everything else has a content of its size.
    File,
}

/// The fields of a header that are used here.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// The size in the header itself.
    pub(super) size: u64,
    pub(super) link: Vec<u8>,
    block: [u8; BLOCK],
    sparse_size: Option<u64>,
}

impl Header {
    /// None if the checksum or a number is wrong.
    pub(super) fn parse(block: &[u8; BLOCK]) -> Option<Self> {
        if !is_intact(block) {
            return None;
        }
        let kind = match block[156] {
            b'x' => Kind::Pax,
            b'g' => Kind::GlobalPax,
            b'L' => Kind::LongName,
            b'K' => Kind::LongLink,
            b'S' => Kind::GnuSparse,
            b'1'..=b'6' => Kind::NoContent,
            0 => Kind::OldFile,
            _ => Kind::File,
        };
        let sparse_size = match kind {
            Kind::GnuSparse => Some(number(&block[483..495])?),
            _ => None,
        };
        Some(Self {
            kind,
            size: number(&block[124..136])?,
            link: until_nul(&block[157..257]).to_vec(),
            block: *block,
            sparse_size,
        })
    }

    /// The name. The prefix may be something else in some forms of tar; it makes a name longer.
    pub(super) fn name(&self) -> Vec<u8> {
        let (prefix, name) = (&self.block[345..500], &self.block[..100]);
        let (prefix, name) = (until_nul(prefix), until_nul(name));
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, name].join(&b'/')
        }
    }

    /// The size of a sparse file in GNU's old form, with its holes.
    pub(super) fn sparse_size(&self) -> Option<u64> {
        self.sparse_size
    }

    /// Whether further blocks with the map of a sparse file follow.
    pub(super) fn has_more_sparse(&self) -> bool {
        self.kind == Kind::GnuSparse && self.block[482] != 0
    }
}

pub(super) fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// Whether the checksum is right. Old programs summed signed bytes.
fn is_intact(block: &[u8; BLOCK]) -> bool {
    let summed = || {
        let others = block[..148].iter().chain(&block[156..]);
        others.chain(&[b' '; 8])
    };
    let unsigned: u64 = summed().map(|byte| u64::from(*byte)).sum();
    let signed: i64 = summed().map(|byte| i64::from(byte.cast_signed())).sum();
    let claimed = octal(&block[148..156]);
    claimed.is_some_and(|sum| sum == unsigned || i64::try_from(sum) == Ok(signed))
}

/// A number, in octal digits or in GNU's binary form. None if it is negative.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    if field[0] & 0x40 != 0 {
        return None;
    }
    let first = u64::from(field[0] & 0x7f);
    field[1..].iter().try_fold(first, |value, byte| {
        Some(value.checked_mul(256)? + u64::from(*byte))
    })
}

fn octal(field: &[u8]) -> Option<u64> {
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_padding(byte));
    let Some(start) = start else { return Some(0) };
    let end = field.iter().rposition(|byte| !is_padding(byte))? + 1;
    let digits = until_nul(&field[start..end]);
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(digit.into())
    })
}
