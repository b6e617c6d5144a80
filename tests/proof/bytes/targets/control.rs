//! Requests of operators: they are the same however they arrive, with one refusal at most.

use super::{Verdict, hold};
use plumbd::control::request::LONGEST;
use plumbd::control::{Decoder, Request};

/// A decoder that turns bytes into requests.
pub trait Requests: Default {
    /// Takes bytes that were read.
    fn feed(&mut self, bytes: &[u8]);
    /// The next request, or refusal.
    fn next_request(&mut self) -> Option<Result<Request, String>>;
}

impl Requests for Decoder {
    fn feed(&mut self, bytes: &[u8]) {
        Decoder::feed(self, bytes);
    }
    fn next_request(&mut self) -> Option<Result<Request, String>> {
        Decoder::next_request(self)
    }
}

/// Tries plumbd's own function.
pub fn target(bytes: &[u8]) -> Verdict {
    look::<Decoder>(bytes)
}

/// Tries bytes. The first byte decides how the rest is cut, or that it is repeated without end.
pub fn look<D: Requests>(bytes: &[u8]) -> Verdict {
    let Some((&how, bytes)) = bytes.split_first() else {
        return Ok(());
    };
    if how == 255 && !bytes.is_empty() {
        return endless::<D>(bytes);
    }
    let whole = outcomes::<D>(bytes.chunks(bytes.len().max(1)))?;
    let pieces = outcomes::<D>(bytes.chunks(usize::from(how) + 1))?;
    hold!(whole == pieces, "whole it is {whole:?}, in pieces {pieces:?}");
    Ok(())
}

fn outcomes<'a, D: Requests>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Result<Request, String>>, String> {
    let mut decoder = D::default();
    let mut outcomes: Vec<Result<Request, String>> = Vec::new();
    for piece in pieces {
        decoder.feed(piece);
        while let Some(outcome) = decoder.next_request() {
            hold!(outcomes.last().is_none_or(Result::is_ok), "goes on after a refusal");
            if let Ok(request) = &outcome {
                let mut again = D::default();
                again.feed(&request.line()?);
                hold!(again.next_request() == Some(Ok(request.clone())), "{request:?} does not come back");
            }
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

/// Repeats the bytes without end. After [`LONGEST`] bytes without a request, they must be refused.
fn endless<D: Requests>(bytes: &[u8]) -> Verdict {
    let mut decoder = D::default();
    let mut waiting = 0;
    let piece = bytes.repeat(1 + 8192 / bytes.len());
    loop {
        decoder.feed(&piece);
        waiting += piece.len();
        match decoder.next_request() {
            Some(_) => return Ok(()),
            None => hold!(waiting < LONGEST, "holds {waiting} bytes of a request"),
        }
    }
}
