package fileblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// List yields the objects whose keys begin with prefix, in key order. It reads only directories that can hold them.
// What is put or deleted meanwhile may or may not be seen.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[*blob.Info, error] {
	return func(yield func(*blob.Info, error) bool) {
		if len(prefix) > blob.MaxKey || strings.HasPrefix(prefix, "/") {
			return // no key begins like that
		}
		dirs, _ := components(prefix)
		w := walk{store: s, prefix: prefix, yield: yield}
		w.directory(ctx, path.Clean("./"+dirs), prefix[:decodedLength(dirs)])
	}
}

// folderBatch is how many entries of a directory Folders has in memory at a time.
const folderBatch = 500

// Folders yields the folders below prefix. It reads one directory, a part at a time, and those that continue the names of
// others.
func (s *Store) Folders(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if prefix != "" && !strings.HasSuffix(prefix, "/") {
			yield("", fmt.Errorf("fileblob: folders of %.100q: %w: it does not end in a slash", prefix, fault.Invalid))
			return
		}
		if len(prefix) > blob.MaxKey || strings.HasPrefix(prefix, "/") {
			return // no key begins like that
		}
		dirs, _ := components(prefix)
		if _, err := s.folders(ctx, path.Clean("./"+dirs), "", yield); err != nil {
			yield("", fmt.Errorf("fileblob: folders of %.100q: %w", prefix, classify(err)))
		}
	}
}

// folders yields the folders in a directory, whose names all begin with base. It reports whether to go on.
func (s *Store) folders(ctx context.Context, dir, base string, yield func(string, error) bool) (more bool, err error) {
	d, err := s.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer d.Close()
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		list, err := d.ReadDir(folderBatch)
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		for _, item := range list {
			text, kind := parseName(item.Name(), item.IsDir())
			more = true
			switch kind {
			case directory:
				more = yield(base+text, nil)
			case continuation:
				more, err = s.folders(ctx, path.Join(dir, item.Name()), base+text, yield)
			}
			if err != nil || !more {
				return false, err
			}
		}
	}
}

// decodedLength returns how many bytes of a key the directories stand for.
func decodedLength(dirs string) (n int) {
	for name := range strings.SplitSeq(strings.TrimSuffix(dirs, "/"), "/") {
		if name == "" {
			continue
		}
		text, kind := parseName(name, true)
		n += len(text)
		if kind == directory {
			n++
		}
	}
	return n
}

type walk struct {
	store  *Store
	prefix string
	yield  func(*blob.Info, error) bool
}

// entry is a name in a directory, with the key it stands for, or which the keys below it begin with.
type entry struct {
	name string
	key  string
	kind entryKind
}

// directory yields what is below one directory, whose keys all begin with base. It reports whether to go on.
func (w *walk) directory(ctx context.Context, dir, base string) bool {
	entries, err := w.entries(ctx, dir, base)
	if err != nil {
		return w.yield(nil, fmt.Errorf("fileblob: list %q: %w", w.prefix, err)) && false
	}
	for _, e := range entries {
		if e.kind != object {
			if !w.directory(ctx, path.Join(dir, e.name), e.key) {
				return false
			}
			continue
		}
		file, info, err := w.store.open(ctx, e.key)
		if fault.Of(err) == fault.NotFound {
			continue // deleted meanwhile
		}
		if err == nil {
			file.Close()
		}
		if !w.yield(info, err) || err != nil {
			return false
		}
	}
	return true
}

// entries returns what of a directory matters, in the order of the keys.
func (w *walk) entries(ctx context.Context, dir, base string) ([]entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := w.store.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	list, err := d.ReadDir(-1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // removed while it was read, because its last object was
	}
	if err != nil {
		return nil, err
	}
	entries := make([]entry, 0, len(list))
	for _, item := range list {
		text, kind := parseName(item.Name(), item.IsDir())
		key := base + text
		if kind == directory {
			key += "/"
		}
		below := kind != object && strings.HasPrefix(w.prefix, key)
		if kind != foreign && (below || strings.HasPrefix(key, w.prefix)) {
			entries = append(entries, entry{item.Name(), key, kind})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	return entries, nil
}
