//! Bytes that steer a target: every choice that a target makes is read from its input, so that a
//! coverage-guided fuzzer can work on it, a failing input can be kept as a file, and a seed can be
//! written down as the choices it makes.

use std::fmt;

/// The choices of one run. When it is over every further choice is the first one.
#[derive(Clone)]
pub struct Script<'a> {
    left: &'a [u8],
}

impl<'a> Script<'a> {
    /// Choices from these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// Whether all choices are made.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.left.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// A number below `bound`, or 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        let number = if bound > 256 { usize::from(self.u16()) } else { usize::from(self.byte()) };
        number.checked_rem(bound).unwrap_or(0)
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let place = self.below(choices.len());
        choices.get(place).copied()
    }

    /// True in one of two cases.
    pub fn chance(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// The next bytes, at most `length`.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, left) = self.left.split_at(length.min(self.left.len()));
        self.left = left;
        taken
    }

    /// A number of 16 bits: as it comes, or one of those at which lengths and offsets go wrong.
    pub fn telling_u16(&mut self) -> u16 {
        let choices = [0, 1, 7, 8, 19, 20, 28, 40, 0x1fff, 0x2000, 0x7fff, 0x8000, 0xfff8, 0xffff];
        if self.chance() { self.one_of(&choices).unwrap_or(0) } else { self.u16() }
    }

    /// Changes `bytes` without knowing what they mean.
    pub fn edit(&mut self, bytes: &mut Vec<u8>) {
        let place = self.below(bytes.len());
        match self.below(8) {
            0 => {
                let bit = self.below(8);
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << bit;
                }
            }
            1 | 2 => {
                let value = self.byte();
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = value;
                }
            }
            3 | 4 => {
                let value = self.telling_u16().to_be_bytes();
                if let Some(field) = bytes.get_mut(place..place + 2) {
                    field.copy_from_slice(&value);
                }
            }
            5 => bytes.truncate(place),
            6 => {
                let length = self.below(64);
                bytes.extend_from_slice(self.take(length));
            }
            _ => {
                let length = self.below(16);
                let end = (place + length).min(bytes.len());
                let doubled = bytes[place.min(end)..end].to_vec();
                bytes.splice(place..place, doubled);
            }
        }
    }

    /// Up to `most` edits.
    pub fn edits(&mut self, bytes: &mut Vec<u8>, most: usize) {
        for _ in 0..self.below(most + 1) {
            self.edit(bytes);
        }
    }
}

impl fmt::Debug for Script<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script of {} more bytes", self.left.len())
    }
}
