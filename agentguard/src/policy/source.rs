//! The text of a policy file and the way from a byte offset to line and column. Reading a file is
//! here as well, because what can't be read as text has no offsets.

use std::{ops::Range, path::Path};

/// Byte offsets into a [`Source`].
pub(super) type Span = Range<usize>;

/// Largest policy file, in bytes. Ten thousand rules take about one mebibyte.
pub const SOURCE_BYTES: u64 = 16 << 20;

/// A policy file's name and text.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name as it was opened; `builtin` for the rules that are always there.
    pub name: String,
    pub text: String,
    /// Offset of the first byte of each line.
    lines: Vec<usize>,
}

/// Why a file has no [`Source`].
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read policy file {name}: {error}")]
    Read { name: String, error: std::io::Error },
    #[error("policy file {name} has {len_bytes} bytes, more than the {SOURCE_BYTES} that are read")]
    TooLong { name: String, len_bytes: u64 },
    #[error("policy file {name} is not UTF-8: byte 0x{byte:02x} at offset {offset}")]
    NotUtf8 {
        name: String,
        line: u32,
        column: u32,
        offset: usize,
        byte: u8,
    },
}

impl Source {
    /// A source that was not read from a file.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let lines = std::iter::once(0)
            .chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1))
            .collect();
        Self {
            name: name.into(),
            text,
            lines,
        }
    }

    /// Reads a file, whose content is checked to be text of a bearable size.
    pub fn read(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let read = |error| SourceError::Read {
            name: name.clone(),
            error,
        };
        let len_bytes = std::fs::metadata(path).map_err(read)?.len();
        if len_bytes > SOURCE_BYTES {
            return Err(SourceError::TooLong { name, len_bytes });
        }
        let bytes = std::fs::read(path).map_err(read)?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(name, text)),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                let bytes = error.as_bytes();
                let start = memchr::memrchr(b'\n', &bytes[..offset]).map_or(0, |at| at + 1);
                Err(SourceError::NotUtf8 {
                    name,
                    line: memchr::memchr_iter(b'\n', &bytes[..offset]).count() as u32 + 1,
                    column: String::from_utf8_lossy(&bytes[start..offset])
                        .chars()
                        .count() as u32
                        + 1,
                    offset,
                    byte: bytes[offset],
                })
            }
        }
    }

    /// Line and column of a byte offset, both from 1; columns count characters.
    pub fn position(&self, offset: usize) -> (u32, u32) {
        let line = self.lines.partition_point(|start| *start <= offset) - 1;
        let start = self.lines[line];
        let end = offset.min(self.text.len());
        let column = self
            .text
            .get(start..end)
            .map_or(0, |text| text.chars().count());
        (line as u32 + 1, column as u32 + 1)
    }

    /// The text of a line (from 1), without its end.
    pub fn line(&self, line: u32) -> &str {
        let index = line as usize - 1;
        let start = self.lines[index];
        let end = self
            .lines
            .get(index + 1)
            .copied()
            .unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }
}
