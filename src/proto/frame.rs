//! Length framing: every message in both directions is a 4-byte big-endian length and that many bytes.

use bytes::{Bytes, BytesMut};

/// Apache's default for `jute.maxbuffer`: the largest frame payload that is accepted, in bytes.
pub const JUTE_MAXBUFFER_DEFAULT: usize = 0xfffff;

/// What stands at the head of the bytes received so far.
#[derive(PartialEq, Eq, Debug)]
pub enum Next {
    /// Not yet a whole frame; this many bytes in all are needed before asking again.
    Need(usize),
    /// One frame's payload, taken out of the buffer without a copy.
    Frame(Bytes),
    /// A length that is negative or above the limit: the connection cannot go on.
    BadLength(i32),
}

/// Takes the next whole frame off `received`.
///
/// `limit_bytes` is `jute.maxbuffer`: a payload of exactly that many bytes is accepted.
pub fn next(received: &mut BytesMut, limit_bytes: usize) -> Next {
    let Some(head) = received.first_chunk::<4>() else {
        return Next::Need(4);
    };
    let len = i32::from_be_bytes(*head);
    if len < 0 || len as usize > limit_bytes {
        return Next::BadLength(len);
    }
    let whole = 4 + len as usize;
    if received.len() < whole {
        return Next::Need(whole);
    }
    let mut frame = received.split_to(whole).freeze();
    bytes::Buf::advance(&mut frame, 4);
    Next::Frame(frame)
}

/// Whether a whole frame is there.
pub fn is_whole(received: &[u8]) -> bool {
    let len = received.first_chunk::<4>().map(|head| i32::from_be_bytes(*head));
    len.is_some_and(|len| len >= 0 && received.len() - 4 >= len as usize)
}

/// Starts a frame in `out`: four bytes to be filled by [`end`], which takes what this returns.
pub fn begin(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; 4]);
    out.len()
}

/// Fills in the length of the frame that [`begin`] opened at `start`.
pub fn end(out: &mut [u8], start: usize) {
    let len = (out.len() - start) as i32;
    out[start - 4..start].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_itself_is_accepted_and_one_more_is_not() {
        let mut received = BytesMut::from(&[0, 0, 0, 5, 1, 2, 3, 4, 5, 9][..]);
        assert_eq!(next(&mut received, 5), Next::Frame(Bytes::from_static(&[1, 2, 3, 4, 5])));
        assert_eq!(&received[..], &[9]);
        let mut received = BytesMut::from(&[0, 0, 0, 6][..]);
        assert_eq!(next(&mut received, 5), Next::BadLength(6));
        let mut received = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        assert_eq!(next(&mut received, 5), Next::BadLength(-1));
    }

    #[test]
    fn a_part_of_a_frame_says_how_much_is_missing() {
        let mut received = BytesMut::from(&[0, 0][..]);
        assert_eq!(next(&mut received, 5), Next::Need(4));
        let mut received = BytesMut::from(&[0, 0, 0, 3, 7][..]);
        assert_eq!(next(&mut received, 5), Next::Need(7));
        assert_eq!(received.len(), 5);
    }

    #[test]
    fn a_frame_written_is_a_frame_read() {
        let mut out = vec![1, 2];
        let start = begin(&mut out);
        out.extend_from_slice(b"payload");
        end(&mut out, start);
        let mut received = BytesMut::from(&out[2..]);
        assert_eq!(next(&mut received, 100), Next::Frame(Bytes::from_static(b"payload")));
    }
}
