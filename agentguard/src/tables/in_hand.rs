//! Which record the daemon is dealing with, where a daemon that is killed leaves it for the next one.

use std::{mem::offset_of, sync::atomic::Ordering};

use agentguard_common::label::Control;

use super::{Error, Mapping, layout, open_mapped};
use crate::pins::Pins;

/// The two words about it in the `CONTROL` map.
#[derive(Debug)]
pub struct InHand(Mapping);

const TIME: usize = offset_of!(Control, in_hand_ns) / 8;
const SEQ: usize = offset_of!(Control, in_hand_seq) / 8;

impl InHand {
    /// # Errors
    ///
    /// When the map isn't there or can't be mapped.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        open_mapped(pins, layout::CONTROL, size_of::<Control>() / 8).map(Self)
    }

    /// Says that the record made at `boot_ns` is to become event number `seq`.
    pub fn set(&self, boot_ns: u64, seq: u64) {
        // Whoever is killed in between has nothing in hand.
        self.store(TIME, 0);
        self.store(SEQ, seq);
        self.store(TIME, boot_ns);
    }

    /// What an earlier daemon said last: the time of the record and the number of its event.
    pub fn get(&self) -> (u64, u64) {
        let load = |index| {
            self.0
                .word(index)
                .map_or(0, |word| word.load(Ordering::SeqCst))
        };
        (load(TIME), load(SEQ))
    }

    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.0.word(index) {
            word.store(value, Ordering::SeqCst);
        }
    }
}
