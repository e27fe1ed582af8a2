package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// transfers is how many files are in flight at once, in either direction.
const transfers = 4

// bars are progress bars on a terminal, lines on one that cannot draw, or nothing elsewhere.
type bars struct {
	progress *mpb.Progress
	lines    io.Writer // for one line a file, where no bar can be drawn
}

// newBars returns bars that are drawn on w, or none.
func (p *program) newBars(ctx context.Context, w io.Writer, draw bool) *bars {
	if !draw || !p.errTTY {
		return &bars{}
	}
	if p.dumb {
		return &bars{lines: w}
	}
	return &bars{progress: mpb.NewWithContext(ctx, mpb.WithOutput(w), mpb.WithAutoRefresh(), mpb.WithWidth(min(p.width, 80)))}
}

// reader returns source with a bar that shows how much of it has been read. A file that is small is there before a
// bar could be drawn.
func (b *bars) reader(verb, name string, size int64, source io.Reader) io.ReadCloser {
	const small = 1 << 20
	if size < small || b.progress == nil && b.lines == nil {
		return io.NopCloser(source)
	}
	if b.progress == nil {
		fmt.Fprintf(b.lines, "%s %s, %s\n", verb, plain(name), bytesOf(size))
		return io.NopCloser(source)
	}
	bar := b.progress.AddBar(size,
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(verb+" "+plain(name)+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Percentage(decor.WCSyncSpace)))
	return bar.ProxyReader(source)
}

func (b *bars) wait() {
	if b.progress != nil {
		b.progress.Shutdown()
	}
}

// upload sends the inputs to where the job says, a few at a time.
func (r *runner) upload(ctx context.Context, inputs []input) error {
	bars := r.p.newBars(ctx, r, r.summary)
	defer bars.wait()
	defer r.talk.enter(settingOut)
	where := map[string]*dayfly.Upload{}
	for _, in := range r.job.Inputs {
		where[in.Name] = in.Upload
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(transfers)
	for _, in := range inputs {
		upload := where[in.name]
		if upload == nil {
			return fault.Say(fault.Internal, "the server did not say where to upload %s", in.name)
		}
		group.Go(func() error {
			file, err := in.open()
			if err != nil {
				return fault.Say(fault.Invalid, "--in: %v", err)
			}
			defer file.Close()
			source := seekable{bars.reader("uploading", in.name, in.size, file), file}
			defer source.Close()
			if err := r.c.Upload(ctx, *upload, source, in.size); err != nil {
				return fmt.Errorf("uploading %s: %w", in.name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// seekable reads through a progress bar and seeks in the file behind it.
type seekable struct {
	io.ReadCloser
	file io.Seeker
}

func (s seekable) Seek(offset int64, whence int) (int64, error) { return s.file.Seek(offset, whence) }

// download brings artifacts into a directory, making it if it is missing, and returns their names.
func (p *program) download(ctx context.Context, c *connection, job string, artifacts []dayfly.Artifact, dir string, draw bool) ([]string, error) {
	if len(artifacts) == 0 {
		return nil, nil
	}
	noPlace := func(err error) error {
		return fault.Say(fault.Invalid, "--out-dir: %s cannot be written to: %v; the files are kept with the job: %s",
			dir, reason(err), p.typed("download --out-dir DIR", job))
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, noPlace(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, noPlace(err)
	}
	defer root.Close()
	bars := p.newBars(ctx, p.err, draw)
	defer bars.wait()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(transfers)
	names := make([]string, len(artifacts))
	for i, artifact := range artifacts {
		names[i] = filepath.Join(dir, filepath.FromSlash(artifact.Name))
		group.Go(func() error {
			if err := downloadOne(ctx, c, root, bars, artifact); err != nil {
				return fmt.Errorf("bringing %s home: %w; it is kept with the job: %s", plain(artifact.Name), err, p.typed("download", job))
			}
			return nil
		})
	}
	return names, group.Wait()
}

// downloadOne writes one artifact under a temporary name and gives it its own when it has arrived whole, so that a
// file of that name is never half of one. The root keeps it inside, whatever the artifact's name says.
func downloadOne(ctx context.Context, c *connection, root *os.Root, bars *bars, a dayfly.Artifact) (err error) {
	name := filepath.FromSlash(a.Name)
	if !filepath.IsLocal(name) {
		return fault.Say(fault.Invalid, "its name does not stay in the directory")
	}
	if dir := path.Dir(a.Name); dir != "." {
		if err := root.MkdirAll(filepath.FromSlash(dir), 0o777); err != nil {
			return err
		}
	}
	body, err := c.Download(ctx, a)
	if err != nil {
		return err
	}
	defer body.Close()
	temp := filepath.Join(filepath.Dir(name), ".dayfly-"+rand.Text()[:12])
	file, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Remove(temp))
		}
	}()
	source := bars.reader("downloading", a.Name, a.Size, body)
	_, err = io.Copy(file, source)
	source.Close()
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return root.Rename(temp, name)
}
