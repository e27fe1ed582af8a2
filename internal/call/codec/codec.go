// Package codec turns the arguments and results of calls into bytes and back.
//
// The format is gob's, because any Go type with exported fields can be written in it and a type may bring its own
// (gob.GobEncoder, encoding.BinaryMarshaler). Three things are added:
//
//   - Descriptions of types are sent once and not with each value. gob sends them before the first value of a stream,
//     and a fresh stream for each value costs ten times the value: 5 µs instead of 0.5 for a struct of three fields. So a
//     [Codec] keeps encoders that have written their descriptions already, and decoders that have read them. What an
//     encoder wrote before its first value is [Value.Types]; the receiver passes it to [Codec.Decode] with each value.
//     The numbers in it are those of the sending process, which is why it travels at all. A type that holds interfaces
//     is described anew with each value, since what will be in them is not known before.
//   - Bytes, strings and struct{} are sent as they are, without a copy.
//   - An io.Reader or io.ReadCloser is streamed: see [Codec.Streams].
//
// What gob would leave out silently is refused by [New]: a channel or a function in an exported field is a value that the
// function would miss on the other side.
package codec

import (
	"encoding/gob"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/dayfly-run/dayfly/fault"
)

// form is how a type travels.
type form int

const (
	empty   form = iota // struct{}: nothing travels
	raw                 // []byte: as it is
	text                // string: as it is
	stream              // the value is itself a reader: nothing but the reader travels
	coded               // gob
	pointer             // gob of what it points to; nothing for nil
	boxed               // gob of a struct around it, because gob takes no interface by itself
)

// Codec encodes and decodes values of one type. It is safe for concurrent use.
type Codec[T any] struct {
	plan
	prime   func() (types []byte)
	writers sync.Pool // of *writer that have written their types
	mu      sync.Mutex
	readers map[string]*sync.Pool // of *reader that have read these types
}

// plan is what is known of a type before any value of it.
type plan struct {
	form    form
	typ     reflect.Type
	fresh   bool      // each value carries the description of its types
	endless *sync.Map // of a type whose values may contain themselves: what is known of the types in them; else nil
	streams [][]int   // where the readers are: paths of fields
}

// box makes a value of any type one that gob takes.
type box[T any] struct{ V T }

// Value is an encoded value.
type Value struct {
	// Types describes Data to whoever reads it; nil when there is nothing to describe. It is the same for all values of
	// a Codec, so a receiver needs it only once.
	Types []byte
	// Data is the value. It may share memory with what was encoded, and is valid until Release.
	Data []byte
	// Readers are what is streamed, one for each of Codec.Streams; nil where the field is nil. What was an io.ReadCloser is
	// one still, and to be closed by whoever has read it; what was an io.Reader is none.
	Readers []io.Reader

	from *sync.Pool
	w    *writer
}

// Release gives the memory of the value back. Nothing of it may be used afterwards.
func (v *Value) Release() {
	if v.w != nil && v.w.buf.Cap() <= maxKept {
		v.w.buf.Reset()
		v.from.Put(v.w)
	}
	*v = Value{}
}

// Own makes the value independent of what was encoded.
func (v *Value) Own() {
	if v.w == nil && len(v.Data) > 0 {
		v.Data = append([]byte(nil), v.Data...)
	}
}

// CloseReaders closes the readers that can be closed, for who does not read them.
func (v *Value) CloseReaders() {
	for _, r := range v.Readers {
		if c, ok := r.(io.Closer); ok {
			c.Close()
		}
	}
}

// maxKept is how large a buffer may have become to be used again, in bytes.
const maxKept = 1 << 20

// maxDescriptions is how many different descriptions of one type a codec keeps decoders for. Runners of one build number
// their types alike unless they used them in another order, so there are a few of them.
const maxDescriptions = 64

// New returns the codec of T. The error, of kind fault.Invalid, says why a T cannot travel.
func New[T any]() (*Codec[T], error) {
	p, err := planOf(reflect.TypeFor[T]())
	if err != nil {
		return nil, err
	}
	c := &Codec[T]{plan: p, readers: map[string]*sync.Pool{}}
	c.prime = sync.OnceValue(c.describe)
	return c, nil
}

// Streams returns how many readers a T holds: 1 when it is an io.Reader or io.ReadCloser itself, else the number of its
// fields, and those of structs in it, that have one of these types.
func (c *Codec[T]) Streams() int { return len(c.streams) }

// OnlyReads reports whether one of the readers is an io.Reader, which cannot be closed.
func (c *Codec[T]) OnlyReads() bool {
	t := c.typ
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return slices.ContainsFunc(c.streams, func(path []int) bool {
		if len(path) > 0 {
			return t.FieldByIndex(path).Type == reflect.TypeFor[io.Reader]()
		}
		return t == reflect.TypeFor[io.Reader]()
	})
}

// Retains reports whether Decode keeps the data it is given, because the value is that data.
func (c *Codec[T]) Retains() bool { return c.form == raw || c.form == text }

// Encode encodes what v points to, which it does not change. The error is of kind fault.Invalid; the value then has the readers
// and nothing else.
func (c *Codec[T]) Encode(v *T) (Value, error) {
	switch c.form {
	case empty:
		return Value{}, nil
	case raw:
		return Value{Data: *(*[]byte)(unsafe.Pointer(v))}, nil
	case text:
		s := *(*string)(unsafe.Pointer(v))
		return Value{Data: unsafe.Slice(unsafe.StringData(s), len(s))}, nil
	case stream:
		return Value{Readers: []io.Reader{readerIn(reflect.ValueOf(v).Elem())}}, nil
	}
	var readers []io.Reader
	if len(c.streams) > 0 {
		v, readers = c.takeReaders(v)
	}
	if c.endless != nil {
		if err := c.checkDepth(reflect.ValueOf(v).Elem()); err != nil {
			return Value{Readers: readers}, c.refuse(err)
		}
	}
	types := c.prime()
	if c.form == pointer && reflect.ValueOf(v).Elem().IsNil() {
		return Value{Types: types}, nil // which may be the first that the receiver gets, and so the only one it gets them with
	}
	if types == nil {
		w := newWriter()
		if err := c.write(w, v); err != nil {
			return Value{Readers: readers}, c.refuse(err)
		}
		return Value{Data: w.buf.Bytes(), Readers: readers}, nil
	}
	w, _ := c.writers.Get().(*writer)
	if w == nil {
		w = newWriter()
		if err := c.write(w, c.zero()); err != nil {
			return Value{Readers: readers}, c.refuse(err)
		}
		w.buf.Reset()
	}
	if err := c.write(w, v); err != nil {
		return Value{Readers: readers}, c.refuse(err) // what this writer has written is unknown now, so it is not used again
	}
	return Value{Types: types, Data: w.buf.Bytes(), Readers: readers, from: &c.writers, w: w}, nil
}

// Decode returns the value that was encoded as data, with the Types it came with. For each reader that was not nil,
// open is called with its number, from 0; for the others open returns nil. The error is of kind fault.Invalid.
func (c *Codec[T]) Decode(types string, data []byte, open func(int) io.ReadCloser) (T, error) {
	var v T
	switch c.form {
	case empty:
		return v, nil
	case raw:
		*(*[]byte)(unsafe.Pointer(&v)) = data
		return v, nil
	case text:
		*(*string)(unsafe.Pointer(&v)) = unsafe.String(unsafe.SliceData(data), len(data))
		return v, nil
	case stream:
		return c.giveReaders(v, open), nil
	case pointer:
		if len(data) == 0 {
			return v, nil
		}
	}
	if err := c.decode(types, data, &v); err != nil {
		var none T
		return none, fault.Say(fault.Invalid, "a value of type %s could not be decoded: %v", c.typ, err)
	}
	if len(c.streams) > 0 {
		v = c.giveReaders(v, open)
	}
	return v, nil
}

func (c *Codec[T]) decode(types string, data []byte, v *T) error {
	if types == "" {
		r := newReader()
		r.feed.data = data
		return c.read(r, v)
	}
	pool := c.primed(types)
	r, _ := pool.Get().(*reader)
	if r == nil {
		r = newReader()
		r.feed.data = []byte(types)
		var scratch T
		if err := c.read(r, &scratch); err != nil {
			return err
		}
	}
	r.feed.data = data
	if err := c.read(r, v); err != nil {
		return err
	}
	if len(data) <= maxKept {
		pool.Put(r)
	}
	return nil
}

// primed returns the decoders that have read these types.
func (c *Codec[T]) primed(types string) *sync.Pool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.readers[types]
	if p == nil {
		p = &sync.Pool{}
		if len(c.readers) < maxDescriptions {
			c.readers[types] = p
		}
	}
	return p
}

// describe returns what an encoder writes for its first value, or nil when each value must be written by a fresh one.
// The first value is the zero value. Code of the type's own may not be able to write or read that; then there is no
// description.
func (c *Codec[T]) describe() (types []byte) {
	if c.fresh {
		return nil
	}
	defer func() {
		if recover() != nil {
			types = nil
		}
	}()
	w := newWriter()
	if c.write(w, c.zero()) != nil {
		return nil
	}
	types = append(types, w.buf.Bytes()...)
	var back T
	r := newReader()
	r.feed.data = types
	if c.read(r, &back) != nil {
		return nil
	}
	w.buf.Reset()
	c.writers.Put(w)
	return types
}

// zero returns the value that is written first: the zero value, or a pointer to it for a pointer.
func (c *Codec[T]) zero() *T {
	v := new(T)
	if c.form == pointer {
		reflect.ValueOf(v).Elem().Set(reflect.New(c.typ.Elem()))
	}
	return v
}

func (c *Codec[T]) write(w *writer, v *T) error {
	if c.form == boxed {
		return w.enc.Encode(&box[T]{*v})
	}
	return w.enc.EncodeValue(reflect.ValueOf(v).Elem())
}

func (c *Codec[T]) read(r *reader, v *T) error {
	var err error
	if c.form == boxed {
		var b box[T]
		err = r.dec.Decode(&b)
		*v = b.V
	} else {
		err = r.dec.Decode(v)
	}
	if err == nil && len(r.feed.data) > 0 {
		return io.ErrShortBuffer // there is more than one value
	}
	r.feed.data = nil
	return err
}

func (c *Codec[T]) refuse(err error) error {
	// Package gob has no type for this, and its sentence does not say what to do.
	if strings.Contains(err.Error(), "type not registered for interface") {
		return fault.Say(fault.Invalid, "a value of type %s cannot be encoded: %v; what is in a field of an interface type is made known by gob.Register, in an init function", c.typ, err)
	}
	return fault.Say(fault.Invalid, "a value of type %s cannot be encoded: %v", c.typ, err)
}

// takeReaders returns a copy of what v points to without its readers, and the readers.
func (c *Codec[T]) takeReaders(v *T) (*T, []io.Reader) {
	without := new(T)
	*without = *v
	s := reflect.ValueOf(without).Elem()
	if c.form == pointer {
		if s.IsNil() {
			return without, nil
		}
		pointee := reflect.New(c.typ.Elem())
		pointee.Elem().Set(s.Elem())
		s.Set(pointee)
		s = pointee.Elem()
	}
	readers := make([]io.Reader, len(c.streams))
	for i, path := range c.streams {
		field := s.FieldByIndex(path)
		readers[i] = readerIn(field)
		field.SetZero()
	}
	return without, readers
}

// readerIn returns the reader in a field, or nil.
func readerIn(field reflect.Value) io.Reader {
	switch r := field.Interface().(type) {
	case nil:
		return nil
	case io.ReadCloser:
		if field.Type() == reflect.TypeFor[io.ReadCloser]() {
			return r
		}
		return onlyReader{r}
	default:
		return r.(io.Reader)
	}
}

// onlyReader hides what else a reader is.
type onlyReader struct{ io.Reader }

func (c *Codec[T]) giveReaders(v T, open func(int) io.ReadCloser) T {
	s := reflect.ValueOf(&v).Elem()
	if c.form == pointer {
		s = s.Elem()
	}
	for i, path := range c.streams {
		if r := open(i); r != nil {
			field := s
			if len(path) > 0 {
				field = s.FieldByIndex(path)
			}
			field.Set(reflect.ValueOf(r))
		}
	}
	return v
}

// writer is an encoder and what it has written.
type writer struct {
	buf buffer
	enc *gob.Encoder
}

func newWriter() *writer {
	w := &writer{}
	w.enc = gob.NewEncoder(&w.buf)
	return w
}

// reader is a decoder and what it has to read.
type reader struct {
	feed feed
	dec  *gob.Decoder
}

func newReader() *reader {
	r := &reader{}
	r.dec = gob.NewDecoder(&r.feed)
	return r
}
