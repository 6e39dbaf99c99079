//! Transactions: what is read and written again is read as the same, and any of them can be applied.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringkeeper::proto::txn::LoggedTxn;
use ringkeeper::tree::DataTree;

fuzz_target!(|data: &[u8]| {
    let Ok(logged) = LoggedTxn::decode(&Bytes::copy_from_slice(data)) else { return };
    let mut again = Vec::new();
    LoggedTxn::encode_parts(&mut again, &logged.header, &logged.txn, logged.digest);
    let again = LoggedTxn::decode(&again.into()).expect("it was written from one that was read");
    assert_eq!((again.header, &again.txn), (logged.header, &logged.txn));
    DataTree::new().apply(&logged.header, &logged.txn);
});
