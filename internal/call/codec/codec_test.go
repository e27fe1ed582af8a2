package codec_test

import (
	"context"
	"encoding/gob"
	"errors"
	"io"
	"math/big"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/call/codec"
)

type video struct {
	Name   string
	Length time.Duration
	Made   time.Time
	Tags   map[string][]int
	Next   *video
}

type shape interface{ Area() float64 }

type square struct{ Side float64 }

func (s square) Area() float64 { return s.Side * s.Side }

type picture struct {
	Title string
	Shape shape
}

// stubborn can write every value but the zero value.
type stubborn struct{ n byte }

func (s stubborn) MarshalBinary() ([]byte, error) {
	if s.n == 0 {
		panic("a stubborn of nothing")
	}
	return []byte{s.n}, nil
}

func (s *stubborn) UnmarshalBinary(b []byte) error { s.n = b[0]; return nil }

// travel encodes and decodes v as a link would carry it, and says how long the data was.
func travel[T any](t *testing.T, c *codec.Codec[T], v T) (T, int) {
	t.Helper()
	e, err := c.Encode(&v)
	if err != nil {
		t.Fatalf("Encode(%#v): %v", v, err)
	}
	data := append([]byte(nil), e.Data...)
	types := string(e.Types)
	e.Release()
	got, err := c.Decode(types, data, func(int) io.ReadCloser { return nil })
	if err != nil {
		t.Fatalf("Decode of %#v: %v", v, err)
	}
	return got, len(data)
}

func arrives[T any](t *testing.T, values ...T) {
	t.Helper()
	c, err := codec.New[T]()
	if err != nil {
		t.Fatalf("New[%T]: %v", *new(T), err)
	}
	for range 2 { // again, by coders that have been used
		for _, v := range values {
			if got, _ := travel(t, c, v); !reflect.DeepEqual(got, v) {
				t.Errorf("got %#v, want %#v", got, v)
			}
		}
	}
}

func TestValuesArriveAsTheyWere(t *testing.T) {
	t.Parallel()
	gob.Register(square{})
	made := time.Date(2020, 1, 2, 3, 4, 5, 6, time.UTC)
	arrives(t, struct{}{})
	arrives(t, []byte("abc"), []byte{0})
	arrives(t, "", "héllo")
	arrives(t, 0, -1, 1<<62)
	arrives(t, 0.5)
	arrives(t, []string{"a", "", "b"})
	arrives(t, map[string]int{"a": 1})
	arrives(t, [3]int{1, 2, 3})
	arrives(t, video{}, video{Name: "a", Length: time.Second, Made: made, Tags: map[string][]int{"x": {1}}, Next: &video{Name: "b"}})
	arrives(t, (*video)(nil), &video{}, &video{Name: "p"})
	arrives(t, (*big.Int)(nil), big.NewInt(7))
	arrives(t, picture{Title: "t", Shape: square{2}}, picture{})
	arrives[shape](t, square{3}, nil)
	arrives(t, stubborn{1}, stubborn{2})
	arrives(t, made)
}

func TestTypesAreDescribedOnceAndValuesAreSmall(t *testing.T) {
	t.Parallel()
	c, err := codec.New[video]()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, n := travel(t, c, video{Name: "a"}); n > 32 {
			t.Errorf("a small value took %d bytes, want at most 32", n)
		}
	}
}

// Two processes number their types by the order in which they first use them, so a receiver must go by the sender's.
func TestValuesAreReadByTheTypesTheyWereWrittenWith(t *testing.T) {
	t.Parallel()
	type one struct{ A, B int }
	c, err := codec.New[one]()
	if err != nil {
		t.Fatal(err)
	}
	v := one{1, 2}
	e, err := c.Encode(&v)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Decode(string(e.Types[:len(e.Types)/2]), e.Data, nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("with half of the types: got %v, want it to be invalid", err)
	}
	if _, err := c.Decode(string(e.Types), append(append([]byte(nil), e.Data...), e.Data...), nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("two values instead of one: got %v, want it to be invalid", err)
	}
	if got, err := c.Decode(string(e.Types), e.Data, nil); err != nil || got != v {
		t.Errorf("afterwards: got %v, %v, want %v", got, err, v)
	}
}

func TestWhatCannotTravelIsRefusedByNewWithItsPlace(t *testing.T) {
	t.Parallel()
	type inner struct{ Done chan int }
	refused := func(name string, err error, words ...string) {
		t.Helper()
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want it to be invalid", name, err)
			return
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: got %q, want it to say %q", name, err, word)
			}
		}
	}
	_, err := codec.New[chan int]()
	refused("a channel", err, "chan int")
	_, err = codec.New[func()]()
	refused("a function", err, "func()")
	_, err = codec.New[struct{ List []inner }]()
	refused("a channel inside", err, ".List[].Done", "chan int")
	_, err = codec.New[struct{ mu sync.Mutex }]()
	refused("nothing exported", err, "no exported field")
	_, err = codec.New[*os.File]()
	refused("a file", err, "os.File", "declare it as io.Reader")
	_, err = codec.New[struct{ In io.ReadSeeker }]()
	refused("a reader that seeks", err, ".In", "declare it as io.Reader")
	_, err = codec.New[struct{ Out io.Writer }]()
	refused("a writer", err, ".Out", "io.Writer", "io.ReadCloser")
	_, err = codec.New[struct{ Context context.Context }]()
	refused("a context", err, ".Context", "a context that ends with its caller's")
	_, err = codec.New[struct{ Mu sync.Mutex }]()
	refused("a lock", err, "sync.Mutex")
	_, err = codec.New[**int]()
	refused("a pointer to a pointer", err, "**int")
	_, err = codec.New[[]io.Reader]()
	refused("readers in a slice", err, "streamed only")
	_, err = codec.New[struct{ In *struct{ R io.Reader } }]()
	refused("a reader behind a pointer", err, ".In.R")
	_, err = codec.New[pages]()
	refused("a reader in a slice of what is a field, too", err, ".Rest[].Body")
	_, err = codec.New[thread]()
	refused("a reader in a type that contains itself", err, ".Next.Body")
}

func TestAValueOfATypeThatNobodyRegisteredIsRefused(t *testing.T) {
	t.Parallel()
	type unknown struct{ N int }
	c, err := codec.New[any]()
	if err != nil {
		t.Fatal(err)
	}
	var v any = unknown{1}
	if _, err := c.Encode(&v); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "gob.Register") {
		t.Errorf("got %v, want it to be invalid and to say how the type is registered", err)
	}
	v = "a string"
	if got, _ := travel(t, c, v); got != "a string" {
		t.Errorf("afterwards: got %v, want a string", got)
	}
}

type upload struct {
	Name  string
	Data  io.Reader
	Inner struct{ More io.ReadCloser }
}

func TestReadersAreTakenOutAndPutBack(t *testing.T) {
	t.Parallel()
	c, err := codec.New[*upload]()
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Streams(); got != 2 {
		t.Fatalf("Streams: got %d, want 2", got)
	}
	v := &upload{Name: "n", Data: strings.NewReader("data")}
	e, err := c.Encode(&v)
	if err != nil {
		t.Fatal(err)
	}
	if v.Data == nil {
		t.Error("the caller's own value has lost its reader")
	}
	if len(e.Readers) != 2 || e.Readers[0] == nil || e.Readers[1] != nil {
		t.Fatalf("Readers: got %v, want one and a nil", e.Readers)
	}
	got, err := c.Decode(string(e.Types), e.Data, func(i int) io.ReadCloser {
		if e.Readers[i] == nil {
			return nil
		}
		return io.NopCloser(e.Readers[i])
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(got.Data)
	if err != nil || string(data) != "data" || got.Name != "n" || got.Inner.More != nil {
		t.Errorf("got %q, %v, %+v, want data, n and no second reader", data, err, got)
	}

	direct, err := codec.New[io.Reader]()
	if err != nil {
		t.Fatal(err)
	}
	var r io.Reader = strings.NewReader("x")
	d, err := direct.Encode(&r)
	if err != nil || len(d.Readers) != 1 {
		t.Fatalf("a reader by itself: got %v, %v", d, err)
	}
	if data, err := io.ReadAll(d.Readers[0]); string(data) != "x" || err != nil {
		t.Errorf("a reader by itself: got %q, %v, want x", data, err)
	}
}

func TestACodecIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	c, err := codec.New[video]()
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			for j := range 200 {
				want := video{Name: strings.Repeat("x", j), Length: time.Duration(i)}
				if got, _ := travel(t, c, want); got.Name != want.Name || got.Length != want.Length {
					t.Errorf("got %v, want %v", got, want)
					return
				}
			}
		})
	}
	running.Wait()
}

func FuzzDecode(f *testing.F) {
	c, err := codec.New[video]()
	if err != nil {
		f.Fatal(err)
	}
	v := video{Name: "a", Tags: map[string][]int{"x": {1}}}
	e, err := c.Encode(&v)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(e.Types), e.Data)
	f.Add("", []byte{3, 4, 0, 1})
	f.Fuzz(func(t *testing.T, types string, data []byte) {
		if _, err := c.Decode(types, data, nil); err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("got %v, want it to be invalid", err)
		}
	})
}

func BenchmarkStruct(b *testing.B) {
	c, err := codec.New[video]()
	if err != nil {
		b.Fatal(err)
	}
	v := video{Name: "a", Length: 5}
	b.ReportAllocs()
	for b.Loop() {
		e, err := c.Encode(&v)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Decode(string(e.Types), e.Data, nil); err != nil {
			b.Fatal(err)
		}
		e.Release()
	}
}

// A receiver keeps the description that came with the first value it was sent.
func TestANilPointerBringsTheDescriptionForThoseThatFollow(t *testing.T) {
	t.Parallel()
	c, err := codec.New[*video]()
	if err != nil {
		t.Fatal(err)
	}
	var none *video
	first, err := c.Encode(&none)
	if err != nil {
		t.Fatal(err)
	}
	sent := &video{Name: "a.mp4"}
	second, err := c.Encode(&sent)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Decode(string(first.Types), first.Data, nil); err != nil || got != nil {
		t.Errorf("the first: got %v, %v, want nil", got, err)
	}
	if got, err := c.Decode(string(first.Types), second.Data, nil); err != nil || !reflect.DeepEqual(got, sent) {
		t.Errorf("the second, by the description of the first: got %v, %v, want %v", got, err, sent)
	}
}

func TestASetTravels(t *testing.T) {
	t.Parallel()
	type tagged struct {
		Tags  map[string]struct{}
		Empty struct{}
	}
	c, err := codec.New[tagged]()
	if err != nil {
		t.Fatalf("got %v, want a codec", err)
	}
	want := tagged{Tags: map[string]struct{}{"a": {}, "b": {}}}
	if got, _ := travel(t, c, want); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// ring is a value that may contain itself.
type ring struct {
	N     int
	Next  *ring
	Every []*ring
	Named map[string]*ring
}

func TestAValueThatContainsItselfIsRefused(t *testing.T) {
	t.Parallel()
	rings := func(join func(*ring)) *ring {
		r := &ring{N: 1, Next: &ring{N: 2}}
		join(r)
		return r
	}
	c, err := codec.New[*ring]()
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*ring{
		"by a pointer": rings(func(r *ring) { r.Next.Next = r }),
		"by a slice":   rings(func(r *ring) { r.Next.Every = []*ring{{}, r} }),
		"by a map":     rings(func(r *ring) { r.Named = map[string]*ring{"a": r.Next}; r.Next.Named = r.Named }),
	} {
		if _, err := c.Encode(&r); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "contains itself") {
			t.Errorf("%s: got %v, want that it contains itself", name, err)
		}
	}
	twice := &ring{N: 3}
	arrives(t, &ring{N: 1, Next: twice, Every: []*ring{twice, twice}}) // which is no ring
	long := &ring{}
	for range 1000 {
		long = &ring{Next: long}
	}
	arrives(t, long)
	for range 110_000 {
		long = &ring{Next: long}
	}
	if _, err := c.Encode(&long); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "deep") {
		t.Errorf("a list of 110,000: got %v, want that it is too deep", err)
	}
}

func TestAValueThatContainsItselfByAnInterfaceIsRefused(t *testing.T) {
	t.Parallel()
	type node struct{ V any }
	c, err := codec.New[node]()
	if err != nil {
		t.Fatal(err)
	}
	list := []any{1, nil}
	list[1] = list
	if _, err := c.Encode(&node{list}); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "contains itself") {
		t.Errorf("got %v, want that it contains itself", err)
	}
}

func BenchmarkRing(b *testing.B) {
	c, err := codec.New[*ring]()
	if err != nil {
		b.Fatal(err)
	}
	r := &ring{N: 1, Next: &ring{N: 2}, Named: map[string]*ring{"a": {N: 3}}}
	for b.Loop() {
		v, err := c.Encode(&r)
		if err != nil {
			b.Fatal(err)
		}
		v.Release()
	}
}

// page has a reader, which is streamed from a field and not from a slice.
type page struct{ Body io.Reader }

type pages struct {
	First page
	Rest  []page
}

type thread struct {
	Body io.Reader
	Next *thread
}
