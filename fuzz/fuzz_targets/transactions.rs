//! Transactions: what is read and written again is read as the same, and any of them can be applied.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringkeeper::proto::txn::{LoggedTxn, Txn};
use ringkeeper::tree::DataTree;

fuzz_target!(|data: &[u8]| {
    let Ok(logged) = LoggedTxn::decode(&Bytes::copy_from_slice(data)) else { return };
    DataTree::new().apply(&logged.header, &logged.txn);
    // Two empty paths, which no server logs, have the bytes of a digest: a closed session without one may be read otherwise.
    if logged.digest.is_none() && matches!(logged.txn, Txn::CloseSession { .. }) {
        return;
    }
    // Characters beyond U+FFFF, 4 bytes in UTF-8, are written as Java does, as surrogates, which are not read as what they
    // were.
    if data.iter().any(|byte| (0xf0..=0xf4).contains(byte)) {
        return;
    }
    let mut again = Vec::new();
    LoggedTxn::encode_parts(&mut again, &logged.header, &logged.txn, logged.digest);
    let again = LoggedTxn::decode(&again.into()).expect("it was written from one that was read");
    assert_eq!((again.header, &again.txn), (logged.header, &logged.txn));
});
