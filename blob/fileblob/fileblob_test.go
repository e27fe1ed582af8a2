package fileblob_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/blobtest"
	"github.com/dayfly-run/dayfly/fault"
)

func TestStore(t *testing.T) {
	t.Parallel()
	dirs := map[blob.Store]string{}
	blobtest.Run(t, blobtest.Harness{
		New: func(t *testing.T) blob.Store {
			dir := t.TempDir()
			s := openStore(t, dir)
			dirs[s] = dir
			return s
		},
		Reopen: func(t *testing.T, s blob.Store) blob.Store { return openStore(t, dirs[s]) },
	})
}

// filesIn returns the paths of all files and of all directories below dir.
func filesIn(t *testing.T, dir string) (files, dirs []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		path, err = filepath.Rel(dir, path)
		if d.IsDir() {
			dirs = append(dirs, path)
		} else {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, dirs
}

func TestAFailedPutLeavesNoFileBehind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir)
	cut := io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), errorReader{})
	if _, err := s.Put(t.Context(), "a/b", cut, nil); err == nil {
		t.Error("Put from a failing reader: got nil, want an error")
	}
	if _, err := s.Put(t.Context(), "a/b", strings.NewReader("xx"), &blob.PutOptions{Limit: 1}); fault.Of(err) != fault.TooLarge {
		t.Errorf("Put over the limit: got %v, want fault.TooLarge", err)
	}
	if files, _ := filesIn(t, dir); len(files) != 0 {
		t.Errorf("files left behind: %q", files)
	}
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errors.New("cut") }

func TestDeletingTheLastObjectRemovesItsDirectories(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir)
	for _, key := range []string{"artifacts/job_1/att_1/out.mp3", "artifacts/job_2/att_2/out.mp3"} {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x"), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "artifacts/job_1/att_1/out.mp3"); err != nil {
		t.Fatal(err)
	}
	files, dirs := filesIn(t, dir)
	if got := strings.Join(append(files, dirs...), " "); strings.Contains(got, "job_1") || !strings.Contains(got, "job_2") {
		t.Errorf("after deleting one of two jobs' objects there is %s", got)
	}
}

func TestFilesAreTheOwnersOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "blobs")
	s := openStore(t, dir)
	if _, err := s.Put(t.Context(), "a/b", strings.NewReader("x"), nil); err != nil {
		t.Fatal(err)
	}
	files, dirs := filesIn(t, dir)
	for _, path := range append(append(files, dirs...), ".") {
		info, err := os.Lstat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, %v; want nothing for group and others", path, info.Mode(), err)
		}
	}
}

func TestOldLeftoversAreRemovedAtOpenAndYoungOnesAreNot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openStore(t, dir)
	for name, age := range map[string]time.Duration{"old": 2 * time.Hour, "young": time.Minute} {
		file := filepath.Join(dir, ".incomplete", name)
		when := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(file, []byte("half"), 0o600), os.Chtimes(file, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	openStore(t, dir)
	if files, _ := filesIn(t, dir); len(files) != 1 || filepath.Base(files[0]) != "young" {
		t.Errorf("after opening again there is %q, want only the young one", files)
	}
}

func TestSymbolicLinksLeadNowhere(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	s := openStore(t, dir)
	secret := filepath.Join(outside, "secret~o")
	if err := errors.Join(os.WriteFile(secret, []byte("secret"), 0o600), os.Symlink(outside, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "link/secret", 0, -1); err == nil {
		t.Error("Get through a link out of the directory: got nil, want an error")
	}
	if _, err := s.Put(t.Context(), "link/new", strings.NewReader("x"), nil); err == nil {
		t.Error("Put through a link out of the directory: got nil, want an error")
	}
	if err := s.Delete(t.Context(), "link/secret"); err == nil {
		t.Error("Delete through a link out of the directory: got nil, want an error")
	}
	if files, _ := filesIn(t, outside); len(files) != 1 {
		t.Errorf("outside there is %q, want the secret alone", files)
	}
}

func TestADamagedFileIsAnErrorRatherThanAnObject(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir)
	if _, err := s.Put(t.Context(), "k", strings.NewReader("hello"), nil); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "k~o")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		for _, damaged := range [][]byte{whole[:n], append(bytes.Clone(whole[n:]), whole[:n]...), append(bytes.Clone(whole), whole[:n]...)} {
			if bytes.Equal(damaged, whole) {
				continue
			}
			if err := os.WriteFile(file, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if info, err := s.Stat(t.Context(), "k"); fault.Of(err) != fault.Internal {
				t.Fatalf("Stat of a damaged file of %d bytes: got %+v, %v; want fault.Internal", len(damaged), info, err)
			}
		}
	}
}

func TestAnOpenReaderKeepsItsObject(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	old := bytes.Repeat([]byte("old"), 100_000)
	if _, err := s.Put(t.Context(), "k", bytes.NewReader(old), nil); err != nil {
		t.Fatal(err)
	}
	r, err := s.Get(t.Context(), "k", 1, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := s.Put(t.Context(), "k", strings.NewReader("new"), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, old[1:]) {
		t.Errorf("a reader of a replaced and deleted object got %d bytes, %v; want the %d of before", len(got), err, len(old)-1)
	}
}

func TestAnOffsetBeyondTheEndIsInvalid(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	if _, err := s.Put(t.Context(), "k", strings.NewReader("12345"), nil); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int64{-1, 6} {
		if _, err := s.Get(t.Context(), "k", offset, -1); fault.Of(err) != fault.Invalid {
			t.Errorf("Get from %d of 5 bytes: got %v, want fault.Invalid", offset, err)
		}
	}
}
