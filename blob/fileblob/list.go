package fileblob

import (
	"context"
	"errors"
	"fmt"
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
		if len(prefix) > maxKey || strings.HasPrefix(prefix, "/") {
			return // no key begins like that
		}
		dirs, _ := components(prefix)
		w := walk{store: s, prefix: prefix, yield: yield}
		w.directory(ctx, path.Clean("./"+dirs), prefix[:decodedLength(dirs)])
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
