//! Which CA signed which certificate, by verified signature, and when a chain ends.

use crate::cert::Certificate;
use crate::time::UnixTime;

/// The CA of `pool` whose key verifies the signature of `certificate`; both need their DER form. Where several do (a CA renewed with its key), the one whose chain ends last.
pub fn issuer<'a>(_certificate: &Certificate, _pool: &[&'a Certificate]) -> Option<&'a Certificate> {
    todo!()
}

/// min(`not_after`, the ends of the CAs above), following [`issuer`] up to a self-signed CA or one whose issuer is unknown.
pub fn effective_not_after(_certificate: &Certificate, _pool: &[&Certificate]) -> UnixTime {
    todo!()
}
