package call

import (
	"context"
	"io"
	"reflect"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/call/codec"
)

// Signature is the types of a function: what travels to it and back. Both sides of a call use it. It is safe for concurrent use.
type Signature[A, R any] struct {
	arguments *codec.Codec[A]
	results   *codec.Codec[R]
}

// NewSignature returns the signature of functions from A to R. The error, of kind fault.Invalid, says which of them cannot
// travel, and why. When streaming, R is the type of an item, which can have no readers.
func NewSignature[A, R any](streaming bool) (*Signature[A, R], error) {
	arguments, err := codec.New[A]()
	if err != nil {
		return nil, fault.Say(fault.Invalid, "its argument cannot travel: %v", err)
	}
	results, err := codec.New[R]()
	if err != nil {
		return nil, fault.Say(fault.Invalid, "its result cannot travel: %v", err)
	}
	switch {
	case streaming && results.Streams() > 0:
		return nil, fault.Say(fault.Invalid, "an item of a stream cannot have a reader in it: %s has", reflect.TypeFor[R]())
	case arguments.Streams() > maxReaders || results.Streams() > maxReaders:
		return nil, fault.Say(fault.Invalid, "a value can have at most %d readers in it", maxReaders)
	case results.OnlyReads():
		return nil, fault.Say(fault.Invalid, "its result %s has an io.Reader in it; it must be an io.ReadCloser, so that the caller can say that it has read enough", reflect.TypeFor[R]())
	}
	return &Signature[A, R]{arguments, results}, nil
}

// Function returns the function that runs f.
func (s *Signature[A, R]) Function(name, place string, f func(context.Context, A) (R, error)) *Function {
	run := func(ctx context.Context, x *Execution) (codec.Value, error) {
		a, err := s.argument(x)
		if err != nil {
			return codec.Value{}, err
		}
		r, err := f(ctx, a)
		if err != nil {
			return codec.Value{}, err
		}
		v, err := s.results.Encode(&r)
		if err != nil {
			err = Unsent(err)
		}
		return v, err
	}
	return &Function{Name: name, Place: place, Retains: s.arguments.Retains(), Run: run}
}

// Streaming returns the function that runs f, each of whose yields is an item.
func (s *Signature[A, R]) Streaming(name, place string, f func(context.Context, A, func(R) error) error) *Function {
	run := func(ctx context.Context, x *Execution) (codec.Value, error) {
		a, err := s.argument(x)
		if err != nil {
			return codec.Value{}, err
		}
		return codec.Value{}, f(ctx, a, func(r R) error {
			v, err := s.results.Encode(&r)
			if err != nil {
				return Unsent(err)
			}
			defer v.Release()
			return x.Yield(v)
		})
	}
	return &Function{Name: name, Place: place, Retains: s.arguments.Retains(), Run: run}
}

// argument decodes the argument and says that the function begins.
func (s *Signature[A, R]) argument(x *Execution) (A, error) {
	types, data := x.Argument()
	a, err := s.arguments.Decode(types, data, x.Reader)
	if err != nil {
		return a, Refuse(err)
	}
	x.Release()
	if err := x.Begin(); err != nil {
		return a, Refuse(err)
	}
	return a, nil
}

// Encode encodes an argument.
func (s *Signature[A, R]) Encode(a *A) (codec.Value, error) { return s.arguments.Encode(a) }

// Retains reports whether results keep the bytes they are decoded from.
func (s *Signature[A, R]) Retains() bool { return s.results.Retains() }

// Streams reports whether results have readers.
func (s *Signature[A, R]) Streams() bool { return s.results.Streams() > 0 }

// Result decodes the result of a call after Wait.
func (s *Signature[A, R]) Result(k *Call) (R, error) {
	types, data := k.Result()
	r, err := s.results.Decode(types, data, k.Reader)
	k.Free()
	if err != nil {
		k.leave()
		err = &Failure{Ran: true, Err: err}
	}
	return r, err
}

// Item decodes an item of a stream.
func (s *Signature[A, R]) Item(types string, data []byte) (R, error) {
	r, err := s.results.Decode(types, data, func(int) io.ReadCloser { return nil })
	if err != nil {
		err = &Failure{Ran: true, Err: err}
	}
	return r, err
}
