package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/lend"
	"github.com/dayfly-run/dayfly/internal/wire"
)

const (
	// maxVisited is how many entries of the working directory are looked at. It bounds the time that a working
	// directory full of files takes.
	maxVisited = 1_000_000
	// askFor is how many places for outputs are asked for at once. A place is not kept for ever, so they are not asked
	// for long before they are used.
	askFor = 64
	// storing is the pace, in bytes per second, at which a server that has all of an output is expected to pass it on to
	// where it is kept before it answers.
	storing = 1 << 20
)

// collection is what the output patterns of a job have found.
type collection struct {
	found    []wire.ArtifactWant // by name
	warnings []string            // about what was not found, and need not be there
	problem  string              // why a file that matches cannot be kept, or ""
	bytes    int                 // of all names
	visited  int                 // how many entries of the working directory were looked at
}

// collect finds the regular files that match any of the patterns. Inputs that the command has left as they were are not
// outputs of it.
func (a *attempt) collect(patterns []string) *collection {
	c := &collection{}
	globs := make(map[string]glob, len(patterns))
	matched := make(map[string]bool, len(patterns))
	for _, pattern := range patterns {
		g, err := parseGlob(pattern)
		if err != nil {
			c.warnings = append(c.warnings, fmt.Sprintf("The output pattern %s is not a valid pattern.", pattern))
			continue
		}
		globs[pattern] = g
	}
	a.visit(".", globs, c, func(name string, by map[string]glob) {
		if a.collectFile(c, name) {
			for pattern, g := range by {
				matched[pattern] = matched[pattern] || g.match(name)
			}
		}
	})
	for _, pattern := range patterns {
		if _, valid := globs[pattern]; valid && !matched[pattern] {
			c.warnings = append(c.warnings, a.unmatched(pattern))
		}
	}
	slices.SortFunc(c.found, func(x, y wire.ArtifactWant) int { return cmp.Compare(x.Name, y.Name) })
	return c
}

// visit calls found for every file below dir that matches, with the patterns that lead there, and reads no directory in
// which nothing could. What it cannot read is a problem: there may be outputs in it.
func (a *attempt) visit(dir string, globs map[string]glob, c *collection, found func(name string, by map[string]glob)) {
	walk := func(name string, entry fs.DirEntry, err error) error {
		c.visited++
		switch {
		case c.visited > maxVisited:
			c.problem = fmt.Sprintf("The working directory holds more than %d files, too many to search for outputs.", maxVisited)
			return fs.SkipAll
		case err != nil:
			c.problem = fmt.Sprintf("The directory %s could not be searched for outputs: %v.", printable(name, 256), err)
			return fs.SkipDir
		case name == dir:
			return nil
		}
		wanted := false
		for _, g := range globs {
			wanted = wanted || entry.IsDir() && g.within(name) || !entry.IsDir() && g.match(name)
		}
		switch {
		case entry.IsDir() && !wanted:
			return fs.SkipDir
		case !entry.IsDir() && wanted:
			found(name, globs)
		}
		if through := a.through(name, entry, globs); len(through) > 0 {
			a.visit(name, through, c, found)
		}
		return nil
	}
	_ = fs.WalkDir(a.files.work.FS(), dir, walk) // walk never returns an error of its own
}

// through returns the patterns that lead through the entry if it is a symbolic link to a directory of the working
// directory.
func (a *attempt) through(name string, entry fs.DirEntry, globs map[string]glob) map[string]glob {
	if entry.Type() != fs.ModeSymlink {
		return nil
	}
	through := maps.Clone(globs)
	maps.DeleteFunc(through, func(_ string, g glob) bool { return !g.through(name) })
	if len(through) == 0 {
		return nil
	}
	if info, err := a.files.work.Stat(name); err != nil || !info.IsDir() {
		return nil
	}
	return through
}

// collectFile adds one file that matches, and reports whether it is an output.
func (a *attempt) collectFile(c *collection, name string) bool {
	info, err := a.files.work.Stat(name) // follows a symbolic link, but never out of the working directory
	switch {
	case err != nil:
		c.warn("The output %s could not be read, so it is not kept: %v.", printable(name, 256), err)
		return false
	case !info.Mode().IsRegular(), a.unchangedInput(name, info.Size()):
		return false
	}
	switch {
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		c.problem = fmt.Sprintf("An output has a name that cannot be shown (%q). Rename it.", name)
	case len(name) > wire.MaxArtifactName:
		c.problem = fmt.Sprintf("The name of output %s is longer than %d bytes. Shorten it.", name[:64]+"…", wire.MaxArtifactName)
	case len(c.found) == wire.MaxArtifacts:
		c.problem = fmt.Sprintf("More than %d files match the output patterns. Pack them into one file, with tar for example.", wire.MaxArtifacts)
	case c.bytes+len(name) > wire.MaxArtifactNames:
		c.problem = "The names of the outputs are too long together. Pack them into one file, with tar for example."
	default:
		c.found = append(c.found, wire.ArtifactWant{Name: name, Size: info.Size()})
		c.bytes += len(name)
	}
	return true
}

func (c *collection) warn(format string, args ...any) {
	if len(c.warnings) < wire.MaxWarnings {
		c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
	}
}

// unchangedInput reports whether the file is an input that still has the content it was fetched with.
func (a *attempt) unchangedInput(name string, size int64) bool {
	input, ok := a.inputs[name]
	if !ok || size != input.Size {
		return false
	}
	file, _, err := open(a.files.work, name)
	if err != nil {
		return false
	}
	defer file.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, file)
	return err == nil && hex.EncodeToString(hash.Sum(nil)) == input.SHA256
}

// unmatched says that a pattern found nothing, and what was probably meant.
func (a *attempt) unmatched(pattern string) string {
	if info, err := a.files.work.Stat(strings.TrimSuffix(pattern, "/")); err == nil && info.IsDir() {
		return fmt.Sprintf("No file matched the output pattern %s: it is a directory. Write %s/** for all files in it.",
			pattern, strings.TrimSuffix(pattern, "/"))
	}
	if _, err := a.files.work.Stat(fixed(pattern)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("No file matched the output pattern %s: %v.", pattern, err)
	}
	return fmt.Sprintf("No file matched the output pattern %s.", pattern)
}

// upload stores the files, and returns those that are stored and why another could not be.
func (a *attempt) upload(ctx context.Context, found []wire.ArtifactWant) (stored []wire.Artifact, err error) {
	for group := range slices.Chunk(found, askFor) {
		if a.job.HashOutputs {
			if err := a.hashAll(ctx, group); err != nil {
				return stored, err
			}
		}
		places, err := a.places(ctx, group)
		if err != nil {
			return stored, err
		}
		sums := make([]string, len(group))
		err = each(ctx, len(group), func(ctx context.Context, i int) (err error) {
			sums[i], err = a.uploadOne(ctx, group[i], places[i])
			return err
		})
		for i, want := range group {
			if sums[i] != "" {
				stored = append(stored, wire.Artifact{Name: want.Name, Size: want.Size, SHA256: sums[i]})
			}
		}
		if err != nil {
			return stored, err
		}
	}
	return stored, nil
}

// hashAll fills in the checksums of what is to be uploaded, which the places for it are then bound to.
func (a *attempt) hashAll(ctx context.Context, group []wire.ArtifactWant) error {
	return each(ctx, len(group), func(_ context.Context, i int) error {
		file, info, err := open(a.files.work, group[i].Name)
		if err == nil {
			defer file.Close()
			if info.Size() != group[i].Size {
				err = changed(group[i], info)
			} else {
				hash := sha256.New()
				_, err = io.Copy(hash, &untilDone{ctx, file})
				group[i].SHA256 = hex.EncodeToString(hash.Sum(nil))
			}
		}
		switch {
		case err == nil || ctx.Err() != nil:
			return context.Cause(ctx)
		case fault.Of(err) != fault.Conflict:
			err = localFailure("reading it", err)
		}
		return fmt.Errorf("output %s: %w", group[i].Name, err)
	})
}

// untilDone is a reader that ends with its context.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (r *untilDone) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// places asks where to put the files.
func (a *attempt) places(ctx context.Context, group []wire.ArtifactWant) (places []wire.Upload, err error) {
	err = a.line.do(ctx, func(ctx context.Context, to Address) error {
		answer, err := a.line.link.Artifacts(ctx, to, &wire.ArtifactRequest{Artifacts: group})
		if err == nil {
			places = answer.Uploads
		}
		return err
	})
	return places, err
}

// uploadOne stores one file and returns its SHA-256.
func (a *attempt) uploadOne(ctx context.Context, want wire.ArtifactWant, place wire.Upload) (sum string, err error) {
	err = a.persist(ctx, func(tries int, moved func()) error {
		if tries > 0 { // the place may have expired, moved with its server, or be out of reach from here
			want.SHA256 = "" // which asks for a place at the server
			places, err := a.places(ctx, []wire.ArtifactWant{want})
			if err != nil {
				return err
			}
			place = places[0]
		}
		sum, err = a.put(ctx, want, place, moved)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("output %s: %w", want.Name, err)
	}
	return sum, nil
}

// put sends one file in one pass, hashing what is sent.
func (a *attempt) put(ctx context.Context, want wire.ArtifactWant, place wire.Upload, moved func()) (string, error) {
	file, before, err := open(a.files.work, want.Name)
	if err != nil {
		return "", localFailure("opening it", err)
	}
	defer file.Close()
	if before.Size() != want.Size {
		return "", changed(want, before)
	}
	hash := sha256.New()
	content := &io.LimitedReader{R: file, N: want.Size}
	var lent *lend.Body
	err = a.transfer(ctx, moved, time.Duration(want.Size/storing)*time.Second, func(ctx context.Context, moving func()) (*http.Request, error) {
		lent = lend.New(&movingReader{io.TeeReader(content, hash), moving}, want.Size)
		request, err := http.NewRequestWithContext(ctx, place.Method, place.URL, lent)
		if err != nil {
			return nil, fault.Say(fault.Denied, "the server named a place that is none")
		}
		if request.ContentLength = want.Size; want.Size == 0 {
			request.Body = http.NoBody // else the length would count as unknown
		}
		for key, value := range place.Headers {
			request.Header.Set(key, value)
		}
		return request, nil
	}, func(body io.Reader) error {
		_, err := io.Copy(io.Discard, io.LimitReader(body, 64<<10)) // so that the connection can be kept
		return err
	})
	after, statErr := file.Stat()
	if statErr != nil {
		return "", localFailure("reading it", statErr)
	}
	if after.Size() != want.Size || !after.ModTime().Equal(before.ModTime()) {
		return "", changed(want, after) // which also explains an upload that was cut short
	}
	if err != nil {
		return "", err
	}
	if !lent.TakeBack(ctx) { // the answer may come before the transport is done with the body
		return "", context.Cause(ctx)
	}
	if content.N > 0 {
		return "", fault.Say(fault.Unavailable, "the answer came before all of it was sent")
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func changed(want wire.ArtifactWant, now os.FileInfo) error {
	return fault.Say(fault.Conflict, "it changed while it was uploaded: it had %d bytes, and has %d now", want.Size, now.Size())
}
