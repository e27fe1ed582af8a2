package sqlite_test

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

// filled returns the path of a closed store with some jobs in it.
func filled(t *testing.T, jobs int64) string {
	t.Helper()
	path := t.TempDir() + "/store.db"
	s := open(t, path, nil)
	for n := range jobs {
		submit(t, s, n)
	}
	closeStore(t, s)
	return path
}

// wantRefused checks that a file is refused with a sentence that has these words, and is not changed.
func wantRefused(t *testing.T, path string, kind fault.Kind, words ...string) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), path, nil)
	if err == nil {
		closeStore(t, s)
		t.Fatal("the store was opened, want it refused")
	}
	wantKind(t, "opening it", err, kind)
	sentence, ok := fault.Sentence(err)
	if !ok {
		t.Fatalf("got %v, want a sentence for a person", err)
	}
	for _, word := range append(words, path) {
		if !strings.Contains(sentence, word) {
			t.Errorf("got %q, want it to say %q", sentence, word)
		}
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the file was changed, want it as it was")
	}
	wantNoOwner(t, "after the refusal", path)
}

func TestAFileThatIsNoDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"x", "hello, world\n", strings.Repeat("SQLite format 4\n", 1000)} {
		path := t.TempDir() + "/store.db"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, path, fault.Invalid, "not a Dayfly database")
	}
}

func TestADatabaseOfAnotherProgramIsRefused(t *testing.T) {
	t.Parallel()
	for what, texts := range map[string][]string{
		"a table":          {`CREATE TABLE songs (title TEXT)`},
		"an id of its own": {`PRAGMA application_id = 42`, `CREATE TABLE jobs (id TEXT)`},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			path := t.TempDir() + "/store.db"
			db := raw(t, path)
			execute(t, db, texts...)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			wantRefused(t, path, fault.Invalid, "another program")
		})
	}
}

func TestADatabaseOfANewerVersionIsRefused(t *testing.T) {
	t.Parallel()
	path := filled(t, 1)
	db := raw(t, path)
	execute(t, db, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (4711, 1)`, `PRAGMA wal_checkpoint(TRUNCATE)`)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, path, fault.Unsupported, "schema 4711", "newer version")
}

func TestInputsOfAnOlderVersionAreFoundWhereItStoredThem(t *testing.T) {
	t.Parallel()
	path := atSchema(t, 2, `
		INSERT INTO jobs (seq, id, version, state, provider, queue, key, priority, name, created_at, events, inputs, retried_from, spec)
			VALUES (1, 'job_1', 1, 'created', 'local', 'default', '', 0, 'true', 1, 1, 2, '', '{"command":["true"]}');
		INSERT INTO inputs (job, place, name, content_type, size, sha256, stored_at)
			VALUES (1, 0, 'dir/in', '', 0, '', 1), (1, 1, 'missing', '', 0, '', NULL)`)
	job, err := open(t, path, nil).Job(t.Context(), "job_1")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"inputs/" + job.ID + "/dir/in", ""} {
		if got := job.Inputs[i].Blob; got != want {
			t.Errorf("input %s is at %q, want %q", job.Inputs[i].Name, got, want)
		}
	}
}

func TestATruncatedDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	path := filled(t, 200)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{info.Size() - 4096, info.Size() / 2, 4096, 100} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, path, fault.Internal, "damaged", "backup")
	}
}

func TestADatabaseWithFlippedBytesIsRefused(t *testing.T) {
	t.Parallel()
	whole, err := os.ReadFile(filled(t, 200))
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for n := 1; n < len(whole)/page; n += 3 {
		path := fmt.Sprintf("%s/store%d.db", t.TempDir(), n)
		damaged := bytes.Clone(whole)
		for i := range 64 { // the head of a page, which says what is where in it
			damaged[n*page+i] ^= 0xff
		}
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, path, fault.Internal, "damaged")
	}
}

func TestAnEmptyFileBecomesAStoreForOurEyesOnly(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/with ? # % ' space.db"
	s := open(t, path, nil)
	submit(t, s, 1)
	for _, suffix := range []string{"", "-wal", "-shm", ".lock", ".owner"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("%s has mode %o, want 600", suffix, got)
		}
	}
	closeStore(t, s)
	for _, suffix := range []string{"-wal", "-shm", ".owner"} {
		if _, err := os.Stat(path + suffix); !os.IsNotExist(err) {
			t.Errorf("after Close there is still a file %s, error %v", suffix, err)
		}
	}
}

func TestAStoreWhoseFileIsReplacedFailsTheCheck(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	s := open(t, path, nil)
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "Check without a file", s.Check(t.Context()), fault.Internal)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "Check with another file", s.Check(t.Context()), fault.Internal)
	if err := os.Rename(path+".old", path); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check with the file back in place returned %v, want nil", err)
	}
}

func TestVersionsOfSQLiteAreCompared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version string
		want    bool
	}{
		{"3.51.3", false}, {"3.51.2", true}, {"3.9.9", true}, {"3.52.0", false}, {"4.0.0", false}, {"2.99.99", true},
		{"3.51", true}, {"3.51.10", false}, {"", true},
	} {
		if got := sqlite.OlderThan(c.version, "3.51.3"); got != c.want {
			t.Errorf("%q is older than 3.51.3: got %v, want %v", c.version, got, c.want)
		}
	}
}

func TestParametersLoseTheirNumbersOnlyIfTheyAreInOrder(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a = 1":                      "a = 1",
		"a = $1 AND b = $2":          "a = ? AND b = ?",
		"($1, $2, $3)":               "(?, ?, ?)",
		"a = $2 AND b = $1":          "a = $2 AND b = $1",
		"a = $1 OR b = $1":           "a = $1 OR b = $1",
		"a = $1 AND b = $3":          "a = $1 AND b = $3",
		"$1$2$3$4$5$6$7$8$9$10 $11,": "?????????? ?,",
	} {
		if got := sqlite.Unnumbered(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestACopyOfASpecSharesNoMemoryWithIt(t *testing.T) {
	t.Parallel()
	var spec dayfly.JobSpec
	fill(reflect.ValueOf(&spec).Elem())
	c := sqlite.CloneSpec(&spec)
	if !reflect.DeepEqual(c, spec) {
		t.Fatalf("got %+v, want %+v", c, spec)
	}
	noSharing(t, "spec", reflect.ValueOf(spec), reflect.ValueOf(c))
}

// fill gives every field a value.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i))
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(1)
	case reflect.Uint8:
		v.SetUint(1)
	default:
		v.SetInt(1)
	}
}

// noSharing fails the test if two values have memory in common.
func noSharing(t *testing.T, name string, a, b reflect.Value) {
	t.Helper()
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			noSharing(t, name+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i))
		}
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if a.Type().String() != "*time.Location" && a.Pointer() == b.Pointer() {
			t.Errorf("the copy shares %s", name)
		}
	}
}
