//! One level of a Topic Filter, as a tree keeps it: a short one needs no memory of its own, so that
//! who looks at it has it at hand.

/// Bytes of a short one.
const SHORT: usize = 14;

/// See the head of this file. 16 bytes.
#[derive(Debug)]
pub(super) enum Level {
    /// So many of these bytes.
    Short(u8, [u8; SHORT]),
    /// Boxed twice: a pointer with a length would make all of them larger.
    Long(Box<Box<str>>),
}

impl Level {
    pub(super) fn new(level: &str) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..level.len()), u8::try_from(level.len())) {
            (Some(start), Ok(len)) => {
                start.copy_from_slice(level.as_bytes());
                Self::Short(len, bytes)
            }
            _ => Self::Long(Box::new(level.into())),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(level) => level.as_bytes(),
        }
    }

    /// Whether it is this one.
    pub(super) fn is(&self, level: &str) -> bool {
        self.as_bytes() == level.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_ones_are_what_they_were() {
        for len in 0..40 {
            let level = "ä-zyxwvutsrqponmlkjihgfedcba987654321012".get(..len);
            let Some(level) = level else { continue };
            let kept = Level::new(level);
            assert!(kept.is(level) && !kept.is("-") && kept.as_bytes() == level.as_bytes());
            assert_eq!(matches!(kept, Level::Short(..)), len <= SHORT);
        }
        assert_eq!(size_of::<Level>(), 16);
    }
}
