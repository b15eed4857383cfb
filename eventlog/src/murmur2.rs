//! The partition of a key, as Java's default partitioner and librdkafka's `murmur2_random` choose it.

/// Partition for `key` among `partitions`. A key of no bytes is a key like any other.
pub fn partition(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff) as i32 % partitions
}

/// MurmurHash2 (32 bits, little-endian) with the seed of Kafka's `org.apache.kafka.common.utils.Utils.murmur2`.
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // A Kafka key is shorter than 2 GiB; Java's length is an int too.
    let mut h = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        h ^= rest.iter().rev().fold(0, |k, byte| k << 8 | u32::from(*byte));
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ h >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What kafka-clients 4.1.1 computes: `Utils.murmur2` and `Utils.toPositive(…) % 8`.
    const VECTORS: [(&str, i32, i32); 12] = [
        ("", 275646681, 1),
        ("a", -1563381124, 4),
        ("ab", 316155434, 2),
        ("abc", 479470107, 3),
        ("abcd", -1323649548, 4),
        ("21", -973932308, 4),
        ("foobar", -790332482, 6),
        ("a-little-bit-long-string", -985981536, 0),
        ("a-little-bit-longer-string", -1486304829, 3),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971, 5),
        ("GLBX.MDP3/GPU1V6", 1349156703, 7),
        ("é中", -289825924, 4),
    ];

    #[test]
    fn hashes_as_java_does() {
        for (key, hash, of_8) in VECTORS {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
            assert_eq!(partition(key.as_bytes(), 8), of_8, "{key}");
            assert_eq!(partition(key.as_bytes(), 1), 0, "{key}");
        }
        assert_eq!(murmur2(&[0xff, 0x80, 0, 1, 0xfe]) as i32, -173560464);
    }
}
