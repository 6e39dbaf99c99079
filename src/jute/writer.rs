/// Appends jute fields to a byte buffer. Implemented for `Vec<u8>`; it never fails.
pub trait Write {
    /// Raw bytes, no length.
    fn put_raw(&mut self, bytes: &[u8]);

    /// jute `byte`.
    fn put_byte(&mut self, value: u8) {
        self.put_raw(&[value]);
    }

    /// jute `boolean`.
    fn put_bool(&mut self, value: bool) {
        self.put_byte(value.into());
    }

    /// jute `int`.
    fn put_int(&mut self, value: i32) {
        self.put_raw(&value.to_be_bytes());
    }

    /// jute `long`.
    fn put_long(&mut self, value: i64) {
        self.put_raw(&value.to_be_bytes());
    }

    /// jute `buffer`; `None` is written as null (length -1).
    fn put_buffer(&mut self, value: Option<&[u8]>) {
        match value {
            Some(bytes) => {
                self.put_int(bytes.len() as i32);
                self.put_raw(bytes);
            }
            None => self.put_int(-1),
        }
    }

    /// jute `ustring`.
    fn put_string(&mut self, value: &str) {
        self.put_buffer(Some(value.as_bytes()));
    }

    /// jute `vector` that is not null.
    fn put_vector<T>(&mut self, items: &[T], mut element: impl FnMut(&mut Self, &T))
    where
        Self: Sized,
    {
        self.put_int(items.len() as i32);
        for item in items {
            element(self, item);
        }
    }
}

impl Write for Vec<u8> {
    fn put_raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
