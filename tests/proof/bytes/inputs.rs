//! Bytes to try: those of the corpus, bytes made from them with something wrong, and
//! random ones.

use std::path::Path;

/// An endless series of inputs, the same for the same seed.
pub(crate) struct Inputs<'a> {
    corpus: &'a [Vec<u8>],
    longest: usize,
    state: u64,
}

/// Values of a wrong byte or number.
const ODD: [u64; 10] = [0, 1, 3, 0x7f, 0x80, 0xff, 0xffff, i64::MAX as u64, 1 << 63, u64::MAX];

/// The files of some folders.
pub(crate) fn corpus(folders: &[&str]) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = folders
        .iter()
        .flat_map(|folder| root.join(folder).read_dir().unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.is_file() && path.extension().is_none_or(|ending| ending == "toml"))
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

impl<'a> Inputs<'a> {
    /// Inputs made from that corpus, none longer than that. Many are short.
    pub(crate) fn new(corpus: &'a [Vec<u8>], longest: usize, seed: u64) -> Inputs<'a> {
        Inputs { corpus, longest, state: seed }
    }

    /// A number below `bound` (SplitMix64).
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        #[expect(clippy::cast_possible_truncation, reason = "below bound")]
        let below = ((z ^ (z >> 31)) % bound.max(1) as u64) as usize;
        below
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        (0..len).map(|_| self.below(256) as u8).collect()
    }

    /// A piece of a file of the corpus.
    fn piece(&mut self, longest: usize) -> Vec<u8> {
        let other = &self.corpus[self.below(self.corpus.len())];
        let len = self.below(longest.min(other.len()) + 1);
        let from = self.below(other.len() - len + 1);
        other[from..from + len].to_vec()
    }

    /// Makes something in it wrong.
    fn spoil(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let to = (at + self.below(9)).min(input.len());
        match self.below(6) {
            0 | 1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 => {
                let odd = ODD[self.below(ODD.len())].to_le_bytes();
                input[at..to].iter_mut().zip(odd).for_each(|(byte, odd)| *byte = odd);
            }
            3 => drop(input.drain(at..to)),
            4 => {
                let piece = self.piece(40);
                input.splice(at..to, piece);
            }
            _ => {
                let len = self.below(5);
                let any = self.bytes(len);
                input.splice(at..at, any);
            }
        }
    }

    /// The next input.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let mut input = match self.below(8) {
            0 => {
                let len = self.below(self.longest);
                self.bytes(len)
            }
            1 => self.piece(self.longest),
            2 => self.piece(self.longest / 4),
            _ => {
                let whole = &self.corpus[self.below(self.corpus.len())];
                if whole.len() > self.longest { self.piece(self.longest) } else { whole.clone() }
            }
        };
        for _ in 0..=self.below(4) {
            self.spoil(&mut input);
        }
        input.truncate(self.longest);
        input
    }
}
