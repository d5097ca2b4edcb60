//! An array map mapped into memory, word by word. A store to one word is one store to the kernel as
//! well, which `bpf_map_update_elem` (a plain memcpy) doesn't promise.

use std::{
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags};

/// The memory of a `BPF_F_MMAPABLE` array, shared with the kernel, as 64-bit words.
#[derive(Debug)]
pub struct Mapping {
    memory: *mut AtomicU64,
    words: usize,
    len_bytes: usize,
}

// SAFETY: the memory is only ever accessed through atomics, and lives as long as the value.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `words` words of the map: its entries times its value size in words (values lie at
    /// multiples of 8 bytes: kernel/bpf/arraymap.c, `elem_size`).
    pub fn new(map: impl AsFd, words: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let len_bytes = (words * 8).next_multiple_of(page);
        // SAFETY: a fresh mapping at an address of the kernel's choice; the kernel refuses a length
        // that is more than the map's.
        let memory = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                0,
            )
        }?;
        Ok(Self {
            memory: memory.cast(),
            words,
            len_bytes,
        })
    }

    /// How many words there are.
    pub fn word_count(&self) -> usize {
        self.words
    }

    /// The word at this index; `None` past the end.
    pub fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.words {
            return None;
        }
        // SAFETY: inside the mapping, which is page-aligned and lives as long as `self`; the kernel
        // accesses it with whole loads and stores.
        Some(unsafe { &*self.memory.add(index) })
    }

    /// The low (0) or high (1) half of the word at this index.
    pub fn half(&self, index: usize, half: usize) -> Option<&AtomicU32> {
        if index >= self.words || half > 1 {
            return None;
        }
        // SAFETY: as above; both architectures that are supported are little-endian.
        Some(unsafe { &*self.memory.add(index).cast::<AtomicU32>().add(half) })
    }

    /// Copies `len` words from index `at` on; `None` when they aren't all there.
    pub fn read(&self, at: usize, len: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len * 8);
        for index in at..at.checked_add(len)? {
            let word = self.word(index)?.load(Ordering::Acquire);
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        Some(bytes)
    }

    /// Writes words from index `at` on. Not atomic: nobody may look at them yet.
    pub fn write(&self, at: usize, words: impl IntoIterator<Item = u64>) -> Option<()> {
        for (index, word) in words.into_iter().enumerate() {
            self.word(at.checked_add(index)?)?
                .store(word, Ordering::Release);
        }
        Some(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping was made in `new`, and no reference to it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.memory.cast(), self.len_bytes) };
    }
}

/// Bytes as little-endian words; the last is filled up with zeros.
pub fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_shared_and_bounded() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4096).expect("resized");
        let mapping = Mapping::new(&file, 3).expect("mapped");
        let twin = Mapping::new(&file, 3).expect("mapped");
        mapping.write(1, words(b"abcdefghi")).expect("inside");
        assert_eq!(twin.read(1, 2).expect("inside"), b"abcdefghi\0\0\0\0\0\0\0");
        assert!(mapping.write(2, [1, 2]).is_none());
        assert!(mapping.word(3).is_none());
        mapping
            .half(0, 1)
            .expect("inside")
            .store(5, Ordering::Release);
        assert_eq!(
            twin.word(0).expect("inside").load(Ordering::Acquire),
            5 << 32
        );
    }
}
