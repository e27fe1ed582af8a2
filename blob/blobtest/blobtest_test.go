package blobtest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/blobtest"
	"github.com/dayfly-run/dayfly/fault"
)

// memory is the simplest store that is right.
type memory struct {
	mu      sync.Mutex
	objects map[string]object
}

type object struct {
	info blob.Info
	data []byte
}

func newMemory() *memory { return &memory{objects: map[string]object{}} }

func check(ctx context.Context, key string) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}

func (m *memory) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	if err := check(ctx, key); err != nil {
		return nil, err
	}
	if o == nil {
		o = &blob.PutOptions{}
	}
	if o.Limit > 0 {
		r = io.LimitReader(r, o.Limit+1)
	}
	var data []byte
	for chunk := make([]byte, 32<<10); ; {
		n, err := r.Read(chunk)
		data = append(data, chunk[:n]...)
		if err == io.EOF {
			break
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return nil, err
		}
	}
	if o.Limit > 0 && int64(len(data)) > o.Limit {
		return nil, fmt.Errorf("memory: %w", fault.TooLarge)
	}
	if o.Size > 0 && int64(len(data)) != o.Size {
		return nil, fmt.Errorf("memory: %w", fault.Invalid)
	}
	sum := sha256.Sum256(data)
	info := blob.Info{Key: key, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), ContentType: o.ContentType, StoredAt: time.Now().UTC()}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key] = object{info, data}
	return &info, nil
}

func (m *memory) get(ctx context.Context, key string) (object, error) {
	if err := check(ctx, key); err != nil {
		return object{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return object{}, fmt.Errorf("memory: %w", fault.NotFound)
	}
	return o, nil
}

func (m *memory) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	o, err := m.get(ctx, key)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > int64(len(o.data)) {
		return nil, fmt.Errorf("memory: %w: offset %d", fault.Invalid, offset)
	}
	data := o.data[offset:]
	if length >= 0 && length < int64(len(data)) {
		data = data[:length]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (m *memory) Stat(ctx context.Context, key string) (*blob.Info, error) {
	o, err := m.get(ctx, key)
	if err != nil {
		return nil, err
	}
	return &o.info, nil
}

func (m *memory) List(ctx context.Context, prefix string) iter.Seq2[*blob.Info, error] {
	return func(yield func(*blob.Info, error) bool) {
		m.mu.Lock()
		objects := maps.Clone(m.objects)
		m.mu.Unlock()
		for _, key := range slices.Sorted(maps.Keys(objects)) {
			if !strings.HasPrefix(key, prefix) {
				continue
			}
			info := objects[key].info
			if err := ctx.Err(); !yield(&info, err) || err != nil {
				return
			}
		}
	}
}

func (m *memory) Folders(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if prefix != "" && !strings.HasSuffix(prefix, "/") {
			yield("", fmt.Errorf("memory: %w: prefix %q", fault.Invalid, prefix))
			return
		}
		last := ""
		for info, err := range m.List(ctx, prefix) {
			name, _, folder := strings.Cut(strings.TrimPrefix(info.Key, prefix), "/")
			if err == nil && (!folder || name == last) {
				continue
			}
			if last = name; !yield(name, err) || err != nil {
				return
			}
		}
	}
}

func (m *memory) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	return nil
}

// The stores below are each wrong in one way.

type forgetsLimit struct{ *memory }

func (b forgetsLimit) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	return b.memory.Put(ctx, key, io.LimitReader(r, 8<<20), nil)
}

type keepsHalf struct{ *memory }

func (b keepsHalf) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	data, err := io.ReadAll(io.LimitReader(r, 8<<20))
	info, putErr := b.memory.Put(context.WithoutCancel(ctx), key, bytes.NewReader(data), o)
	return info, errors.Join(err, ctx.Err(), putErr)
}

type cutsRanges struct{ *memory }

func (b cutsRanges) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if length > 1 {
		length--
	}
	return b.memory.Get(ctx, key, offset, length)
}

type listsBackwards struct{ *memory }

func (b listsBackwards) List(ctx context.Context, prefix string) iter.Seq2[*blob.Info, error] {
	return func(yield func(*blob.Info, error) bool) {
		var all []*blob.Info
		for info := range b.memory.List(context.WithoutCancel(ctx), prefix) {
			all = append(all, info)
		}
		for _, info := range slices.Backward(all) {
			if !yield(info, ctx.Err()) {
				return
			}
		}
	}
}

type repeatsFolders struct{ *memory }

func (b repeatsFolders) Folders(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for info, err := range b.memory.List(ctx, prefix) {
			name, _, folder := strings.Cut(strings.TrimPrefix(info.Key, prefix), "/")
			if folder && !yield(name, err) {
				return
			}
		}
	}
}

type firstFolders struct{ *memory }

func (b firstFolders) Folders(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		n := 0
		for name, err := range b.memory.Folders(ctx, prefix) {
			if n++; n > 64 || !yield(name, err) {
				return
			}
		}
	}
}

type deletesOnce struct{ *memory }

func (b deletesOnce) Delete(ctx context.Context, key string) error {
	if _, err := b.memory.Stat(ctx, key); err != nil {
		return err
	}
	return b.memory.Delete(ctx, key)
}

type untypedAbsence struct{ *memory }

func (b untypedAbsence) Stat(ctx context.Context, key string) (*blob.Info, error) {
	info, err := b.memory.Stat(ctx, key)
	if errors.Is(err, fault.NotFound) {
		return nil, errors.New("no such object")
	}
	return info, err
}

type cleansKeys struct{ *memory }

func (b cleansKeys) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	if key != "" && key[0] != '/' && !strings.HasSuffix(key, "/") && !strings.Contains(key, "//") {
		key = path.Clean(key)
	}
	return b.memory.Put(ctx, key, r, o)
}

type ignoresCase struct{ *memory }

func (b ignoresCase) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	return b.memory.Put(ctx, strings.ToLower(key), r, o)
}

func (b ignoresCase) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return b.memory.Get(ctx, strings.ToLower(key), offset, length)
}

type showsUnfinished struct{ *memory }

func (b showsUnfinished) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	data, err := io.ReadAll(io.LimitReader(r, 8<<20))
	if err == nil && len(data) > 200<<10 && o == nil {
		if _, err := b.memory.Put(ctx, key, bytes.NewReader(data[:len(data)/2]), o); err != nil {
			return nil, err
		}
		// Half the object is there to be seen until the scheduler comes back.
		for range 100 {
			b.memory.Stat(ctx, key)
			runtime.Gosched()
		}
	}
	return b.memory.Put(ctx, key, io.MultiReader(bytes.NewReader(data), errReader{err}), o)
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) {
	if r.err == nil {
		return 0, io.EOF
	}
	return 0, r.err
}

type believesSizes struct{ *memory }

func (b believesSizes) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	if o != nil {
		honest := *o
		honest.Size = 0
		o = &honest
	}
	return b.memory.Put(ctx, key, r, o)
}

type wrongHash struct{ *memory }

func (b wrongHash) Stat(ctx context.Context, key string) (*blob.Info, error) {
	info, err := b.memory.Stat(ctx, key)
	if err == nil {
		info.SHA256 = strings.ToUpper(info.SHA256)
	}
	return info, err
}

type ignoresContext struct{ *memory }

func (b ignoresContext) Delete(ctx context.Context, key string) error {
	return b.memory.Delete(context.WithoutCancel(ctx), key)
}

type joinsFolders struct{ *memory }

func (b joinsFolders) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	if folder, _, found := strings.Cut(key, "/"); found {
		if err := b.memory.Delete(ctx, folder); err != nil {
			return nil, err
		}
	}
	return b.memory.Put(ctx, key, r, o)
}

// broken names each broken store and the case that must catch it.
var broken = map[string]struct {
	store func(t *testing.T) blob.Store
	fails string
}{
	"forgetsLimit":    {inMemory(func(m *memory) blob.Store { return forgetsLimit{m} }), "TheLimitIsExact"},
	"keepsHalf":       {inMemory(func(m *memory) blob.Store { return keepsHalf{m} }), "APutWhoseReaderFailsLeavesNothing"},
	"cutsRanges":      {inMemory(func(m *memory) blob.Store { return cutsRanges{m} }), "RangesAreExact"},
	"listsBackwards":  {inMemory(func(m *memory) blob.Store { return listsBackwards{m} }), "ListIsInKeyOrderAndFollowsThePrefix"},
	"repeatsFolders":  {inMemory(func(m *memory) blob.Store { return repeatsFolders{m} }), "FoldersAreYieldedOnceEach"},
	"firstFolders":    {inMemory(func(m *memory) blob.Store { return firstFolders{m} }), "ManyFoldersAreYieldedOnceEach"},
	"deletesOnce":     {inMemory(func(m *memory) blob.Store { return deletesOnce{m} }), "DeleteMayBeRepeated"},
	"untypedAbsence":  {inMemory(func(m *memory) blob.Store { return untypedAbsence{m} }), "AnAbsentObjectIsNotFound"},
	"cleansKeys":      {inMemory(func(m *memory) blob.Store { return cleansKeys{m} }), "HostileKeysReachNothingElse"},
	"ignoresCase":     {inMemory(func(m *memory) blob.Store { return ignoresCase{m} }), "KeysOfAllFormsAreApart"},
	"showsUnfinished": {inMemory(func(m *memory) blob.Store { return showsUnfinished{m} }), "ConcurrentPutsOfOneKeyLeaveOneWholeObject"},
	"believesSizes":   {inMemory(func(m *memory) blob.Store { return believesSizes{m} }), "TheAnnouncedSizeMustBeTrue"},
	"wrongHash":       {inMemory(func(m *memory) blob.Store { return wrongHash{m} }), "StatTellsWhatPutReturned"},
	"joinsFolders":    {inMemory(func(m *memory) blob.Store { return joinsFolders{m} }), "ABackendThatIsFlatRefusesTheSecond"},
	"ignoresMethod":   {signs(func(s *signer) { s.ignoresMethod = true }), "Signed/ARequestIsForOneMethodAndKey"},
	"ignoresKey":      {signs(func(s *signer) { s.ignoresKey = true }), "Signed/ARequestIsForOneMethodAndKey"},
	"ignoresMAC":      {signs(func(s *signer) { s.ignoresMAC = true }), "Signed/AForgedRequestIsRefused"},
	"ignoresExpiry":   {signs(func(s *signer) { s.ignoresExpiry = true }), "Signed/AnExpiredRequestIsRefused"},
	"ignoresHeaders":  {signs(func(s *signer) { s.ignoresHeaders = true }), "Signed/APutIsBoundToExactHeaders"},
	"trimsHeaders":    {signs(func(s *signer) { s.trimsHeaders = true }), "Signed/APutIsBoundToExactHeaders"},
	"ignoresSize":     {signs(func(s *signer) { s.ignoresSize = true }), "Signed/APutIsBoundToTheSize"},
	"ignoresChecksum": {signs(func(s *signer) { s.ignoresChecksum = true }), "Signed/APutIsBoundToTheChecksum"},
	"keepsBroken":     {signs(func(s *signer) { s.keepsBroken = true }), "Signed/APutThatBreaksOffLeavesNothing"},
	"forgetsAnswer":   {signs(func(s *signer) { s.forgetsAnswer = true }), "Signed/AGetIsAnsweredWithTheTypeThatWasSigned"},
	"forgetsChecksum": {signs(func(s *signer) { s.forgetsChecksum = true }), "Signed/APutStoresTheObject"},
	"ignoresRanges":   {signs(func(s *signer) { s.ignoresRanges = true }), "Signed/AGetReturnsTheObjectAndItsParts"},
	"plusForSpace":    {signs(func(s *signer) { s.plusForSpace = true }), "Signed/KeysOfAllFormsCanBeSigned"},
	"signsAnything":   {signs(func(s *signer) { s.signsAnything = true }), "Signed/WhatCannotBeSignedIsRefused"},
	"ignoresContext":  {inMemory(func(m *memory) blob.Store { return ignoresContext{m} }), "AnEndedContextIsObeyed"},
}

func inMemory(broken func(*memory) blob.Store) func(*testing.T) blob.Store {
	return func(*testing.T) blob.Store { return broken(newMemory()) }
}

const brokenVariable = "BLOBTEST_BROKEN"

func TestACorrectStorePasses(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, blobtest.Harness{
		New:    func(*testing.T) blob.Store { return newMemory() },
		Reopen: func(_ *testing.T, s blob.Store) blob.Store { return s },
	})
}

// TestOneBrokenStore fails on purpose, in a process of its own that TestBrokenStoresAreCaught starts.
func TestOneBrokenStore(t *testing.T) {
	name := os.Getenv(brokenVariable)
	if name == "" {
		return
	}
	blobtest.Run(t, blobtest.Harness{New: broken[name].store})
}

func TestBrokenStoresAreCaught(t *testing.T) {
	t.Parallel()
	for name, b := range broken {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOneBrokenStore$/^"+strings.ReplaceAll(b.fails, "/", "$/^")+"$", "-test.timeout=1m")
			cmd.Env = append(os.Environ(), brokenVariable+"="+name)
			out, err := cmd.CombinedOutput()
			want := "--- FAIL: TestOneBrokenStore/" + b.fails
			if err == nil || !strings.Contains(string(out), want) {
				t.Errorf("the suite did not catch it in case %s: %v\n%s", b.fails, err, out)
			}
			if strings.Contains(string(out), "panic:") {
				t.Errorf("the suite panicked instead of saying what is wrong:\n%s", out)
			}
		})
	}
}
