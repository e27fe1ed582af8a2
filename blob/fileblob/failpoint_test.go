//go:build failpoint

package fileblob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/fileblob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
)

// asStorer is the environment variable that makes the test's program use the store at this path.
const asStorer = "FILEBLOB_TEST_STORE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asStorer); dir != "" {
		if err := replaceAndDelete(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// What the objects of the test hold, before and after the program was there.
func earlier() []byte { return bytes.Repeat([]byte("earlier "), 50_000) }
func later() []byte   { return bytes.Repeat([]byte("and later\n"), 60_000) }

// replaceAndDelete makes an object, replaces one and deletes one, and prints what was acknowledged. What fails once is
// done again, as clients do.
func replaceAndDelete(dir string) error {
	s, err := fileblob.Open(dir, nil)
	if err != nil {
		return err
	}
	ctx := context.Background()
	put := func(key string) error {
		_, err := s.Put(ctx, key, bytes.NewReader(later()), &blob.PutOptions{ContentType: "text/plain"})
		return err
	}
	failures := 0
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"made", func() error { return put("a/made") }},
		{"replaced", func() error { return put("a/replaced") }},
		{"deleted", func() error { return s.Delete(ctx, "b/deleted") }},
	} {
		err := step.do()
		if errors.Is(err, fault.Unavailable) && failures == 0 {
			failures++
			err = step.do()
		}
		if err != nil {
			return err
		}
		fmt.Println(step.name)
	}
	return s.Close()
}

// TestAWriteThatFailsAtAPointIsWholeOrNotThere lets a program fail at each point, and looks at what the next one finds.
func TestAWriteThatFailsAtAPointIsWholeOrNotThere(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"blob.put.before", "blob.put.after", "blob.delete.before", "blob.delete.after"} {
		for _, action := range []string{"1*error", "1*kill", "1*off->1*kill"} {
			if strings.HasPrefix(action, "1*off") && strings.HasPrefix(point, "blob.delete") {
				continue // which is passed once
			}
			t.Run(point+"="+action, func(t *testing.T) {
				t.Parallel()
				failAt(t, point+"="+action, strings.HasSuffix(action, "kill"))
			})
		}
	}
}

func failAt(t *testing.T, program string, kills bool) {
	dir := t.TempDir()
	s := openStore(t, dir)
	for _, key := range []string{"a/replaced", "b/deleted"} {
		if _, err := s.Put(t.Context(), key, bytes.NewReader(earlier()), nil); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asStorer+"="+dir, failpoint.Variable+"="+program)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	output, err := cmd.Output()
	killed := cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
	if killed != kills || !kills && err != nil || complaints.Len() > 0 {
		t.Fatalf("the program ended with %v, want it killed: %v\n%s", cmd.ProcessState, kills, complaints.String())
	}
	acknowledged := map[string]bool{}
	for _, step := range strings.Fields(string(output)) {
		acknowledged[step] = true
	}
	// The temporary file of a put that was killed is removed once it is old enough.
	again, err := fileblob.Open(dir, &fileblob.Options{Leftover: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if files, _ := filesIn(t, dir+"/.incomplete"); len(files) > 0 {
		t.Errorf("the files %q are left, want none", files)
	}
	wantObject(t, again, "a/made", acknowledged["made"], later(), nil)
	wantObject(t, again, "a/replaced", acknowledged["replaced"], later(), earlier())
	wantObject(t, again, "b/deleted", acknowledged["deleted"], nil, earlier())
	for info, err := range again.List(t.Context(), "") {
		if err != nil {
			t.Fatalf("the list: %v, after %v", err, info)
		}
	}
}

// wantObject makes sure that an object is as after the step, or, if the step was not acknowledged, as before it; nil
// stands for no object.
func wantObject(t *testing.T, s *fileblob.Store, key string, acknowledged bool, after, before []byte) {
	t.Helper()
	var got []byte
	r, err := s.Get(t.Context(), key, 0, -1)
	if err == nil {
		got, err = io.ReadAll(r)
		r.Close()
	} else if errors.Is(err, fault.NotFound) {
		err = nil
	}
	if err != nil {
		t.Fatalf("%s cannot be read: %v", key, err)
	}
	if !bytes.Equal(got, after) && (acknowledged || !bytes.Equal(got, before)) {
		t.Errorf("%s holds %d bytes %.20q, want it as after the step (acknowledged: %v)", key, len(got), got, acknowledged)
	}
}
