package codec

import "io"

// buffer is what an encoder writes to. gob writes a message with one Write, so growing to just what is needed costs no
// more than bytes.Buffer, which doubles.
type buffer struct{ data []byte }

func (b *buffer) Write(p []byte) (int, error) {
	b.data = append(b.data, p...)
	return len(p), nil
}

func (b *buffer) Bytes() []byte { return b.data }
func (b *buffer) Reset()        { b.data = b.data[:0] }
func (b *buffer) Cap() int      { return cap(b.data) }

// feed is what a decoder reads from. It can read bytes one by one, without which gob would put a buffer in front of it
// and take more than the value.
type feed struct{ data []byte }

func (f *feed) Read(p []byte) (int, error) {
	if len(f.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.data)
	f.data = f.data[n:]
	return n, nil
}

func (f *feed) ReadByte() (byte, error) {
	if len(f.data) == 0 {
		return 0, io.EOF
	}
	b := f.data[0]
	f.data = f.data[1:]
	return b, nil
}
