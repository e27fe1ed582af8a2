package blobtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// keys are valid, in spite of how some look.
func keys() []string {
	long := strings.Repeat("x", 255)
	return []string{
		"a", "a/b", "a/b/c", "a-b", "a.b", "a b", " a", "a ", "A", "a!", "a0", "aa", "a/b-", "a/b.c", "-", "-rf", "~", "~o", "a~o", "a~c/x",
		"%", "%2F", "a%2Fb", "%41", "a%00", "?x=1&y", "#", "a:b", "a\\b", "C:\\x", "*", "a*", "[a]", "{a}", "$(a)", "`a`", ";", "|", "<a>", "\"", "'",
		"a\nb", "\t", "\x1b[31m", "\x7f", "ä", "a\u0308", "日本語/ファイル", "🦋", "\u202e.txt", "con", "nul", "aux.txt", ".hidden", "a/.b", "..a", "a..", "...",
		".incomplete", long, long + "/" + long, long + "y", strings.Repeat("ü", 120), strings.Repeat("a/", 100) + "z",
	}
}

func list(t *testing.T, s blob.Store, prefix string) (found []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("List %q: %v", prefix, err)
		}
		found = append(found, info.Key)
	}
	return found
}

// held returns those of the keys that the backend can hold beside each other.
func (h *Harness) held(keys []string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		folder := func(other string) bool { return strings.HasPrefix(other, key+"/") }
		return h.Holds != nil && !h.Holds(key) || h.Flat && slices.ContainsFunc(keys, folder)
	})
}

func weirdKeys(t *testing.T, h Harness, s blob.Store) {
	for _, key := range keys() {
		if h.Holds != nil && !h.Holds(key) {
			_, err := s.Put(t.Context(), key, strings.NewReader("x"), nil)
			wantKind(t, fmt.Sprintf("Put with the key %q, which the backend cannot hold", key), err, fault.Invalid)
		}
	}
	all := h.held(keys())
	for i, key := range all {
		put(t, s, key, fmt.Appendf(nil, "%d %s", i, key))
	}
	for i, key := range all {
		wantBytes(t, s, key, fmt.Appendf(nil, "%d %s", i, key))
	}
	want := slices.Sorted(slices.Values(all))
	if got := list(t, s, ""); !slices.Equal(got, want) {
		t.Errorf("List yields\n%q, want\n%q", got, want)
	}
	for i, key := range all {
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("Delete %q: %v", key, err)
		}
		if i+1 < len(all) {
			wantBytes(t, s, all[i+1], fmt.Appendf(nil, "%d %s", i+1, all[i+1]))
		}
	}
	if got := list(t, s, ""); len(got) != 0 {
		t.Errorf("after all were deleted List yields %q, want nothing", got)
	}
}

func invalidKeys(t *testing.T, _ Harness, s blob.Store) {
	for name, key := range map[string]string{
		"empty":              "",
		"a leading slash":    "/a",
		"a trailing slash":   "a/",
		"an empty part":      "a//b",
		"only a slash":       "/",
		"a NUL":              "a\x00b",
		"not UTF-8":          "a\xffb",
		"thousands of bytes": strings.Repeat("x", 10_000),
		"thousands of parts": strings.Repeat("x/", 10_000) + "x",
	} {
		_, err := s.Put(t.Context(), key, bytes.NewReader(nil), nil)
		wantKind(t, "Put with a key that is "+name, err, fault.Invalid)
		_, err = s.Get(t.Context(), key, 0, -1)
		wantKind(t, "Get with a key that is "+name, err, fault.Invalid)
		_, err = s.Stat(t.Context(), key)
		wantKind(t, "Stat with a key that is "+name, err, fault.Invalid)
		wantKind(t, "Delete with a key that is "+name, s.Delete(t.Context(), key), fault.Invalid)
	}
	if got := list(t, s, ""); len(got) != 0 {
		t.Errorf("List yields %q, want nothing", got)
	}
}

// hostileKeys may be refused. A store that accepts one keeps it as an object of its own.
func hostileKeys(t *testing.T, _ Harness, s blob.Store) {
	put(t, s, "a", []byte("a"))
	put(t, s, "b/c", []byte("b/c"))
	var stored []string
	for _, key := range []string{".", "..", "../a", "a/..", "b/../a", "./a", "b/./c", "../../../../etc/passwd", "b/../../x", "..\\a", "b/.."} {
		_, err := s.Put(t.Context(), key, strings.NewReader(key), nil)
		if fault.Of(err) == fault.Invalid {
			continue
		}
		if err != nil {
			t.Errorf("Put %q: got %v, want nil or fault.Invalid", key, err)
			continue
		}
		stored = append(stored, key)
	}
	for _, key := range append(stored, "a", "b/c") {
		wantBytes(t, s, key, []byte(key))
	}
	if got, want := list(t, s, ""), slices.Sorted(slices.Values(append(stored, "a", "b/c"))); !slices.Equal(got, want) {
		t.Errorf("List yields %q, want %q", got, want)
	}
}

func listing(t *testing.T, h Harness, s blob.Store) {
	long := strings.Repeat("l", 197)
	all := []string{
		"a", "a!", "a/b", "a/b!", "a/b/c", "a/b0", "a0", "b", "job_1/out", "job_1/out2", "job_10/out", "job_2/x/y/z", "ä", "日",
		long, long + "l", long + "l!", long + "l/x", long + "ll", long + "l0", long + "ü",
	}
	all = h.held(all)
	for _, key := range all {
		put(t, s, key, []byte(key))
	}
	prefixes := []string{"", "none", "/", "a", "a/", "a/b", "a/b/", "a!", "job_1", "job_1/", "job_10/", "job_2/x", "ä", "\xc3", "~", "%", ".", long, long + "l", long + "l/", long + "ü"}
	for _, prefix := range prefixes {
		var want []string
		for _, key := range slices.Sorted(slices.Values(all)) {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		if got := list(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("List %q yields\n%q, want\n%q", prefix, got, want)
		}
	}
}

func longListing(t *testing.T, h Harness, s blob.Store) {
	n := h.Many
	if n == 0 {
		n = 100
	}
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("many/%d/%d", i%3, i))
	}
	atOnce(want, func(key string) { put(t, s, key, nil) })
	slices.Sort(want)
	if got := list(t, s, "many/"); !slices.Equal(got, want) {
		t.Errorf("List yields %d objects, want the %d that were put, in order", len(got), len(want))
	}
}

// atOnce calls do for each of the names, a few at a time.
func atOnce(names []string, do func(name string)) {
	var all sync.WaitGroup
	for part := range slices.Chunk(names, (len(names)+7)/8) {
		all.Go(func() {
			for _, name := range part {
				do(name)
			}
		})
	}
	all.Wait()
}

func listStops(t *testing.T, _ Harness, s blob.Store) {
	for _, key := range []string{"a/1", "a/2", "b/3"} {
		put(t, s, key, nil)
	}
	seen := 0
	for _, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 2 {
			break
		}
	}
	if seen != 2 {
		t.Errorf("a caller that stops after two objects saw %d", seen)
	}
}

// foldersOf returns what Folders yields, sorted.
func foldersOf(t *testing.T, s blob.Store, prefix string) (found []string) {
	t.Helper()
	for name, err := range s.Folders(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("Folders of %q: %v", prefix, err)
		}
		found = append(found, name)
	}
	slices.Sort(found)
	return found
}

func folders(t *testing.T, h Harness, s blob.Store) {
	long := strings.Repeat("l", 197)
	all := append(keys(), "job_1/out", "job_1/out2", "job_1/x/y", "job_10/out", "job_2", long, long+"l/x", long+"ll/x", long+"l", long+"/a/b",
		"in/"+long+"lll/x", "in/"+strings.Repeat(long, 3)+"/x")
	all = h.held(all)
	for _, key := range all {
		put(t, s, key, nil)
	}
	for _, prefix := range []string{"", "a/", "a/b/", "job_1/", "job_2/", "in/", "in/" + long + "lll/", "none/", "/", long + "/", long + "/a/"} {
		var want []string
		for _, key := range all {
			rest, below := strings.CutPrefix(key, prefix)
			if name, _, folder := strings.Cut(rest, "/"); below && folder && !slices.Contains(want, name) {
				want = append(want, name)
			}
		}
		slices.Sort(want)
		if got := foldersOf(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("Folders of %q yields\n%q, want\n%q", prefix, got, want)
		}
	}
	var refused error
	for _, err := range s.Folders(t.Context(), "job") {
		refused = err
	}
	wantKind(t, "Folders of a prefix that does not end in a slash", refused, fault.Invalid)
	seen := 0
	for _, err := range s.Folders(t.Context(), "") {
		if err != nil {
			t.Errorf("Folders: got error %v, want the first folder", err)
		}
		seen++
		break
	}
	if seen != 1 {
		t.Errorf("a caller that stops after one folder saw %d", seen)
	}
}

func manyFolders(t *testing.T, h Harness, s blob.Store) {
	n := h.Many
	if n == 0 {
		n = 100
	}
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("%04d", i))
	}
	atOnce(want, func(name string) {
		put(t, s, "many/"+name+"/x", nil)
		put(t, s, "many/"+name+"/y", nil)
	})
	if got := foldersOf(t, s, "many/"); !slices.Equal(got, want) {
		t.Errorf("Folders yields %d names, want the %d that there are", len(got), len(want))
	}
	// Who deletes what he finds, finds all.
	var deleted []string
	for name, err := range s.Folders(t.Context(), "many/") {
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"/x", "/y"} {
			if err := s.Delete(t.Context(), "many/"+name+file); err != nil {
				t.Fatal(err)
			}
		}
		deleted = append(deleted, name)
	}
	if slices.Sort(deleted); !slices.Equal(deleted, want) {
		t.Errorf("Folders yields %d names while they are deleted, want %d", len(deleted), len(want))
	}
}

func deleteRepeats(t *testing.T, _ Harness, s blob.Store) {
	put(t, s, "a/b", []byte("x"))
	for i := range 3 {
		if err := s.Delete(t.Context(), "a/b"); err != nil {
			t.Errorf("Delete number %d: got %v, want nil", i+1, err)
		}
		wantAbsent(t, s, "a/b")
	}
	if err := s.Delete(t.Context(), "never/was"); err != nil {
		t.Errorf("Delete of what never was: got %v, want nil", err)
	}
	put(t, s, "a/b", []byte("again"))
	wantBytes(t, s, "a/b", []byte("again"))
}

func deleteOne(t *testing.T, h Harness, s blob.Store) {
	others := h.held([]string{"a", "a/b/c", "a/bc", "ab"})
	if h.Flat {
		others = []string{"a/bc", "ab"}
	}
	all := append(others, "a/b")
	for _, key := range all {
		put(t, s, key, []byte(key))
	}
	if err := s.Delete(t.Context(), "a/b"); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	wantAbsent(t, s, "a/b")
	for _, key := range others {
		wantBytes(t, s, key, []byte(key))
	}
}

func concurrentPuts(t *testing.T, _ Harness, s blob.Store) {
	const writers, rounds, size = 4, 5, 300 << 10
	valid := map[string]bool{}
	var mu sync.Mutex
	ctx, stop := context.WithCancel(t.Context())
	var readers, all sync.WaitGroup
	first := content(size, 0)
	valid[hash(first)] = true
	put(t, s, "k", first)
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				data, err := read(t.Context(), s, "k", 0, -1)
				mu.Lock()
				if err != nil || !valid[hash(data)] {
					t.Errorf("a reader among writers got %d bytes, %v; want one of the objects, whole", len(data), err)
				}
				mu.Unlock()
			}
		})
	}
	for w := range writers {
		all.Go(func() {
			for r := range rounds {
				data := content(size-w*1000-r, byte(w*rounds+r))
				mu.Lock()
				valid[hash(data)] = true
				mu.Unlock()
				info, err := s.Put(t.Context(), "k", io.MultiReader(bytes.NewReader(data)), nil)
				if err != nil || info.SHA256 != hash(data) {
					t.Errorf("Put among others: got %+v, %v", info, err)
				}
			}
		})
	}
	all.Wait()
	stop()
	readers.Wait()
	info, err := s.Stat(t.Context(), "k")
	if err != nil || !valid[info.SHA256] {
		t.Errorf("after all, Stat says %+v, %v; want one of the objects", info, err)
	}
}

func concurrentKeys(t *testing.T, _ Harness, s blob.Store) {
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for r := range 5 {
				// Putting and deleting in shared directories, which come and go with their last object.
				key, data := fmt.Sprintf("shared/%d/x%d", r, w), content(1000*w, byte(r))
				if _, err := s.Put(t.Context(), key, bytes.NewReader(data), nil); err != nil {
					t.Errorf("Put %q: %v", key, err)
				}
				if got, err := read(t.Context(), s, key, 0, -1); err != nil || !bytes.Equal(got, data) {
					t.Errorf("Get %q: got %d bytes, %v; want %d", key, len(got), err, len(data))
				}
				for _, err := range s.List(t.Context(), "shared/") {
					if err != nil {
						t.Errorf("List: %v", err)
					}
				}
				if err := s.Delete(t.Context(), key); err != nil {
					t.Errorf("Delete %q: %v", key, err)
				}
			}
		})
	}
	all.Wait()
	if got := list(t, s, ""); len(got) != 0 {
		t.Errorf("after all were deleted List yields %q", got)
	}
}

func survives(t *testing.T, h Harness, s blob.Store) {
	if h.Reopen == nil {
		t.Log("the harness has no Reopen; the store lives as long as its process")
		return
	}
	data := content(10_000, 11)
	stored, err := s.Put(t.Context(), "a/b", bytes.NewReader(data), &blob.PutOptions{ContentType: "image/png"})
	if err != nil {
		t.Fatalf("Put: %v", err)
	}
	again := h.Reopen(t, s)
	wantBytes(t, again, "a/b", data)
	info, err := again.Stat(t.Context(), "a/b")
	if err != nil || info.Size != stored.Size || info.SHA256 != stored.SHA256 || info.ContentType != stored.ContentType || info.StoredAt.IsZero() {
		t.Errorf("Stat in a new process: got %+v, %v; want %+v", info, err, *stored)
	}
}

// flat holds a backend to what its harness says of it.
func flat(t *testing.T, h Harness, s blob.Store) {
	put(t, s, "a", []byte("a"))
	put(t, s, "b/c", []byte("b/c"))
	_, below := s.Put(t.Context(), "a/b", strings.NewReader("a/b"), nil)
	_, above := s.Put(t.Context(), "b", strings.NewReader("b"), nil)
	if h.Flat {
		wantKind(t, "Put of a/b beside a in a flat backend", below, fault.Invalid)
		wantKind(t, "Put of b beside b/c in a flat backend", above, fault.Invalid)
	} else if below != nil || above != nil {
		t.Errorf("Put of a/b beside a, and of b beside b/c: got %v and %v, want both kept", below, above)
	}
	wantBytes(t, s, "a", []byte("a"))
	wantBytes(t, s, "b/c", []byte("b/c"))
}
