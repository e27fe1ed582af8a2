package hire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// newPrograms returns the programs in a directory, as a server that starts has them. Those of the digests in needed are.
func newPrograms(t *testing.T, dir string, most int, bytes int64, needed map[string]bool) *programs {
	t.Helper()
	p := &programs{
		dir: dir, most: most, mostBytes: bytes, life: time.Hour, log: quiet(),
		needed: func(digest string) bool { return needed[digest] },
	}
	if err := p.open(); err != nil {
		t.Fatal(err)
	}
	return p
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// text is a program of a name, of some size.
func text(name string, size int) []byte { return bytes.Repeat([]byte(name), size/len(name)) }

func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// all is the part of a program that is all of it.
func all(tenant, name string, program []byte) part {
	return part{tenant: tenant, digest: digestOf(program), name: name, size: int64(len(program))}
}

// left returns the names of what is in a directory.
func left(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestAProgramThatBreaksOffGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	p := newPrograms(t, t.TempDir(), 8, 1<<20, nil)
	want := text("thumbnails ", 50_000)
	at := all("web", "../thumb nails", want)
	cut := io.MultiReader(bytes.NewReader(want[:20_000]), iotest.ErrReader(io.ErrUnexpectedEOF))
	if _, err := p.receive(at, cut); !errors.Is(err, fault.Unavailable) {
		t.Errorf("receive of a body that breaks off: got error %v, want fault.Unavailable", err)
	}
	if got := p.state("web", at.digest); got.Whole || got.Have != 20_000 {
		t.Errorf("state: got %+v, want 20000 bytes", got)
	}
	if _, _, err := p.use(at.digest); !errors.Is(err, fault.NotFound) {
		t.Errorf("use of half a program: got error %v, want fault.NotFound", err)
	}
	if got := p.state("mobile", at.digest); got.Whole || got.Have != 0 {
		t.Errorf("state for another tenant: got %+v, want nothing", got)
	}
	if _, err := p.receive(at, bytes.NewReader(want)); !errors.Is(err, fault.Conflict) {
		t.Errorf("receive from another byte on: got error %v, want fault.Conflict", err)
	}
	at.from = 20_000
	if got, err := p.receive(at, bytes.NewReader(want[20_000:])); err != nil || !got.Whole {
		t.Fatalf("receive of the rest: got %+v and error %v, want a whole program", got, err)
	}
	file, release, err := p.use(at.digest)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) || filepath.Base(file) != "thumb-nails" || filepath.Dir(filepath.Dir(file)) != p.dir {
		t.Errorf("the program is %d bytes in %s, error %v, want %d bytes in a file thumb-nails", len(got), file, err, len(want))
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o500 {
		t.Errorf("the file: got %v and error %v, want that it can be executed and not changed", info, err)
	}
}

func TestWhatIsNotTheProgramIsDiscarded(t *testing.T) {
	t.Parallel()
	p := newPrograms(t, t.TempDir(), 8, 1<<20, nil)
	want := text("thumbnails ", 1000)
	at := all("web", "thumbnails", want)
	for what, c := range map[string]struct {
		at   func(*part)
		body []byte
		want fault.Kind
	}{
		"other bytes":          {nil, bytes.ToUpper(want), fault.Invalid},
		"too many bytes":       {nil, append(want[:len(want):len(want)], 'x'), fault.Invalid},
		"no digest":            {func(at *part) { at.digest = "../../../etc/shadow" }, want, fault.Invalid},
		"a digest in capitals": {func(at *part) { at.digest = "ABCDEF" + at.digest[6:] }, want, fault.Invalid},
		"no size":              {func(at *part) { at.size = 0 }, nil, fault.Invalid},
		"more than allowed":    {func(at *part) { at.size = 1 << 40 }, want, fault.TooLarge},
		"more than kept":       {func(at *part) { at.size = 2 << 20 }, want, fault.Exhausted},
		"beyond its end":       {func(at *part) { at.from = at.size + 1 }, want, fault.Invalid},
		"from its middle on":   {func(at *part) { at.from = 10 }, want[10:], fault.Conflict},
	} {
		at := at
		if c.at != nil {
			c.at(&at)
		}
		if got, err := p.receive(at, bytes.NewReader(c.body)); fault.Of(err) != c.want {
			t.Errorf("receive of %s: got %+v and error %v, want kind %s", what, got, err, c.want)
		}
		for from, in := range p.coming { // or the next one would go on with it
			p.discard(from, in)
		}
	}
	if got := left(t, p.dir); len(got) != 0 {
		t.Errorf("got %q in the directory, want nothing", got)
	}
}

func TestManySendersMakeOneCopy(t *testing.T) {
	t.Parallel()
	p := newPrograms(t, t.TempDir(), 8, 64<<20, nil)
	want := text("thumbnails ", 3<<20)
	var group sync.WaitGroup
	for n := range 12 {
		tenant := []string{"web", "mobile", "batch"}[n%3]
		group.Go(func() {
			for {
				at := all(tenant, "thumbnails", want)
				state := p.state(tenant, at.digest)
				if state.Whole {
					return
				}
				at.from = state.Have
				body := io.MultiReader(bytes.NewReader(want[at.from:min(at.from+1<<20, at.size)]), iotest.ErrReader(io.ErrUnexpectedEOF))
				if _, err := p.receive(at, body); err != nil && !errors.Is(err, fault.Unavailable) && !errors.Is(err, fault.Conflict) {
					t.Errorf("receive: got error %v, want none but that it is somebody else's turn", err)
					return
				}
			}
		})
	}
	group.Wait()
	if got := left(t, p.dir); len(got) != 1 || got[0] != digestOf(want) || len(p.coming) != 0 {
		t.Errorf("got %q in the directory and %d on their way, want the program alone", got, len(p.coming))
	}
}

func TestWhatAServerThatWasKilledHadNotWholeIsGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := newPrograms(t, dir, 8, 1<<20, nil)
	whole, half := text("whole ", 1000), text("half ", 1000)
	if _, err := first.receive(all("web", "whole", whole), bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	if _, err := first.receive(all("web", "half", half), bytes.NewReader(half[:10])); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("receive: got error %v, want fault.Unavailable", err)
	}
	second := newPrograms(t, dir, 8, 1<<20, nil)
	if got := left(t, dir); len(got) != 1 || !second.state("mobile", digestOf(whole)).Whole {
		t.Errorf("got %q after a start, want what was whole", got)
	}
	if got := second.state("web", digestOf(half)); got.Whole || got.Have != 0 {
		t.Errorf("state of what was not whole: got %+v, want nothing", got)
	}
}

func TestTheProgramUsedLongestAgoGivesWayUnlessItIsNeeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		needed := map[string]bool{}
		p := newPrograms(t, t.TempDir(), 3, 10_000, needed)
		send := func(name string, size int) error {
			program := text(name, size)
			_, err := p.receive(all("web", name, program), bytes.NewReader(program))
			<-time.After(2 * time.Minute)
			return err
		}
		there := func(name string, size int) bool { return p.whole[digestOf(text(name, size))] != nil }
		for _, name := range []string{"a", "b", "c"} {
			if err := send(name, 100); err != nil {
				t.Fatal(err)
			}
		}
		needed[digestOf(text("a", 100))] = true
		_, release, err := p.use(digestOf(text("b", 100)))
		if err != nil {
			t.Fatal(err)
		}
		if err := send("d", 100); err != nil || there("c", 100) {
			t.Errorf("a fourth of three: got error %v, want that it takes the place of the one that nobody needs", err)
		}
		needed[digestOf(text("d", 100))] = true
		if err := send("e", 100); !errors.Is(err, fault.Exhausted) {
			t.Errorf("another when all are needed: got error %v, want fault.Exhausted", err)
		}
		release()
		if err := send("e", 9_850); !errors.Is(err, fault.Exhausted) || !there("b", 100) {
			t.Errorf("a large one, when two small ones are needed: got error %v, want fault.Exhausted, and that nothing is removed for it", err)
		}
		if err := send("e", 9_800); err != nil || there("b", 100) || !there("a", 100) || !there("d", 100) {
			t.Errorf("one that fits when an old one has gone: got error %v, want that it does", err)
		}
		<-time.After(2 * time.Hour)
		p.tidy()
		if there("e", 9_800) || !there("a", 100) || !there("d", 100) {
			t.Errorf("got %q after hours, want those that are needed", left(t, p.dir))
		}
	})
}

func TestAPartThatNobodyGoesOnWithIsRemoved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPrograms(t, t.TempDir(), 100, 1<<20, nil)
		for n := range maxComingEach + 1 {
			program := text(string(rune('a'+n)), 100)
			_, err := p.receive(all("web", "program", program), bytes.NewReader(program[:50]))
			want := fault.Unavailable
			if n == maxComingEach {
				want = fault.Exhausted
			}
			if fault.Of(err) != want {
				t.Errorf("receive of half of program %d: got error %v, want kind %s", n, err, want)
			}
		}
		<-time.After(comingLife / 2)
		p.tidy()
		if got := left(t, p.dir); len(got) != maxComingEach {
			t.Errorf("got %d parts after a while, want %d", len(got), maxComingEach)
		}
		<-time.After(comingLife)
		p.tidy()
		if got := left(t, p.dir); len(got) != 0 || len(p.coming) != 0 {
			t.Errorf("got %q and %d on their way after a longer while, want nothing", got, len(p.coming))
		}
	})
}
