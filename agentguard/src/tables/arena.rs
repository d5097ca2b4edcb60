//! Which cells of the arena are in use: first fit over regions that never overlap. What lies in them
//! is the policy's business.
//!
//! A region ends with a cell that says where it begins, so that a restarted daemon finds the regions
//! of the profiles in force from their slots alone.

use std::collections::BTreeMap;

use agentguard_common::profile::DESCRIPTOR_CELLS;

use super::Mapping;

/// High half of a region's last cell ("AGPR").
const TRAILER: u32 = 0x5250_4741;

/// A run of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// First cell.
    pub at: u32,
    /// Cells, with the trailer.
    pub len_cells: u32,
}

/// The arena can't hold what is to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the arena has no room for {wanted} cells in one piece (largest free piece: {largest} of {total}); raise arena_cells in the configuration, run `agentguard unload` and start again"
)]
pub struct Full {
    pub wanted: u32,
    pub largest: u32,
    pub total: u32,
}

/// The free list.
#[derive(Clone, Debug)]
pub struct Arena {
    total: u32,
    /// Length by first cell.
    used: BTreeMap<u32, u32>,
}

impl Arena {
    /// An arena of `total` cells, all free but cell 0, which stands for "none".
    pub fn new(total: u32) -> Self {
        Self {
            total,
            used: BTreeMap::from([(0, 1)]),
        }
    }

    /// Takes `len_cells` and a trailer out of the free cells.
    pub fn allocate(&mut self, len_cells: u32) -> Result<Region, Full> {
        let wanted = len_cells.saturating_add(1);
        let mut at = 0;
        let mut largest = 0;
        for (start, len) in self
            .used
            .iter()
            .map(|(start, len)| (*start, *len))
            .chain([(self.total, 0)])
        {
            let free = start.saturating_sub(at);
            if free >= wanted {
                let region = Region {
                    at,
                    len_cells: wanted,
                };
                self.used.insert(region.at, region.len_cells);
                return Ok(region);
            }
            largest = largest.max(free);
            at = start + len;
        }
        Err(Full {
            wanted,
            largest,
            total: self.total,
        })
    }

    /// Marks a region that was found in use. `false` when it overlaps another or the end.
    pub fn claim(&mut self, region: Region) -> bool {
        let Some(end) = region.at.checked_add(region.len_cells) else {
            return false;
        };
        let before = self.used.range(..end).next_back();
        if end > self.total || before.is_some_and(|(start, len)| start + len > region.at) {
            return false;
        }
        self.used.insert(region.at, region.len_cells);
        true
    }

    /// Gives a region back. Only after nobody can read it any more.
    pub fn release(&mut self, region: Region) {
        if self.used.get(&region.at) == Some(&region.len_cells) {
            self.used.remove(&region.at);
        }
    }

    /// Cells in use.
    pub fn used_cells(&self) -> u32 {
        self.used.values().sum()
    }
}

/// The trailer of a region.
pub fn trailer(region: Region) -> u64 {
    u64::from(region.at) | u64::from(TRAILER) << 32
}

/// The region whose descriptor (its last cells before the trailer) is at this cell.
pub fn region_of(arena: &Mapping, descriptor: u32) -> Option<Region> {
    let last = descriptor.checked_add(DESCRIPTOR_CELLS)?;
    let cell = arena
        .word(last as usize)?
        .load(std::sync::atomic::Ordering::Acquire);
    let at = cell as u32;
    if (cell >> 32) as u32 != TRAILER || at > descriptor {
        return None;
    }
    Some(Region {
        at,
        len_cells: last - at + 1,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cell_zero_is_never_given() {
        let mut arena = Arena::new(10);
        assert_eq!(arena.allocate(8).expect("fits").at, 1);
        assert_eq!(
            arena.allocate(0),
            Err(Full {
                wanted: 1,
                largest: 0,
                total: 10
            })
        );
    }

    #[test]
    fn what_was_found_is_not_given_again() {
        let mut arena = Arena::new(100);
        let found = Region {
            at: 20,
            len_cells: 10,
        };
        assert!(arena.claim(found));
        assert!(!arena.claim(Region {
            at: 15,
            len_cells: 6
        }));
        assert!(!arena.claim(Region {
            at: 29,
            len_cells: 1
        }));
        assert!(!arena.claim(Region {
            at: 95,
            len_cells: 6
        }));
        assert_eq!(arena.allocate(30).expect("fits").at, 30);
        assert_eq!(arena.allocate(18).expect("fits").at, 1);
    }

    #[test]
    fn a_region_is_found_from_its_descriptor() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8192).expect("resized");
        let arena = Mapping::new(&file, 1024).expect("mapped");
        let region = Region {
            at: 50,
            len_cells: 100 + DESCRIPTOR_CELLS + 1,
        };
        let last = region.at + region.len_cells - 1;
        arena
            .write(last as usize, [trailer(region)])
            .expect("inside");
        assert_eq!(region_of(&arena, 150), Some(region));
        assert_eq!(region_of(&arena, 151), None);
        assert_eq!(region_of(&arena, u32::MAX), None);
    }

    proptest! {
        #[test]
        fn regions_never_overlap(steps in prop::collection::vec((any::<bool>(), 0_u32..40), 0..200)) {
            let mut arena = Arena::new(256);
            let mut live: Vec<Region> = Vec::new();
            for (take, number) in steps {
                if take {
                    if let Ok(region) = arena.allocate(number) {
                        prop_assert!(region.at > 0 && region.at + region.len_cells <= 256);
                        for other in &live {
                            prop_assert!(
                                region.at + region.len_cells <= other.at
                                    || other.at + other.len_cells <= region.at
                            );
                        }
                        live.push(region);
                    }
                } else if !live.is_empty() {
                    let region = live.swap_remove(number as usize % live.len());
                    arena.release(region);
                }
                let sum: u32 = live.iter().map(|region| region.len_cells).sum();
                prop_assert_eq!(arena.used_cells(), sum + 1);
            }
        }
    }
}
