package app

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/azureblob"
	"github.com/dayfly-run/dayfly/blob/s3blob"
	"github.com/dayfly-run/dayfly/fault"
)

// Blobs says where inputs and artifacts are kept.
type Blobs struct {
	// URL is s3://BUCKET/PREFIX or azure://ACCOUNT/CONTAINER/PREFIX; "": in the data directory.
	URL string `toml:"url"`
	// Endpoint is the URL of the service, when it is not that of AWS or of the account.
	Endpoint string `toml:"endpoint"`
	// PublicEndpoint is the URL by which clients and machines reach the service, when that is another.
	PublicEndpoint string `toml:"public_endpoint"`
	Region         string `toml:"region"`     // of a bucket
	PathStyle      bool   `toml:"path_style"` // name the bucket in the path of a URL
	AccessKey      string `toml:"access_key"` // of S3
	SecretKey      string `toml:"secret_key"` // of S3, or the access key of the account
	// SecretKeyFile is a file that holds the SecretKey.
	SecretKeyFile string `toml:"secret_key_file"`
	// Direct lets clients and machines exchange files with the service itself, by signed URLs.
	Direct bool `toml:"direct"`
}

// azureKeyVariable is where Azure's own tools look for an account's access key.
const azureKeyVariable = "AZURE_STORAGE_KEY"

// validate reports what is wrong in the section.
func (b *Blobs) validate() error {
	if b.URL == "" {
		for key, value := range map[string]string{"endpoint": b.Endpoint, "public_endpoint": b.PublicEndpoint, "access_key": b.AccessKey,
			"secret_key": b.SecretKey, "secret_key_file": b.SecretKeyFile, "region": b.Region} {
			if value != "" {
				return fault.Field("blobs."+key, "means nothing without blobs.url, which names the bucket or container")
			}
		}
		return nil
	}
	u, err := url.Parse(b.URL)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Scheme != "s3" && u.Scheme != "azure":
		return fault.Field("blobs.url", "is neither s3://BUCKET/PREFIX nor azure://ACCOUNT/CONTAINER/PREFIX; the prefix may be left out")
	case b.SecretKey != "" && b.SecretKeyFile != "":
		return fault.Field("blobs.secret_key_file", "is not needed beside secret_key; give one of them")
	case u.Scheme == "s3" && (b.AccessKey == "") != (b.SecretKey == "" && b.SecretKeyFile == ""):
		return fault.Field("blobs.access_key", "and the secret key belong together; one of them is missing")
	case u.Scheme == "azure" && strings.Trim(u.Path, "/") == "":
		return fault.Field("blobs.url", "names no container; write azure://ACCOUNT/CONTAINER")
	case u.Scheme == "azure" && b.SecretKey == "" && b.SecretKeyFile == "" && os.Getenv(azureKeyVariable) == "":
		return fault.Field("blobs.secret_key", "is missing: the access key of the storage account; set it, or secret_key_file, or the environment variable %s", azureKeyVariable)
	}
	return nil
}

// secret returns the secret key, which a file may hold.
func (b *Blobs) secret() (string, error) {
	if b.SecretKeyFile == "" {
		return b.SecretKey, nil
	}
	file, err := os.Open(b.SecretKeyFile)
	if err != nil {
		return "", fault.Field("blobs.secret_key_file", "cannot be read: %v", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, 64<<10))
	if err != nil {
		return "", fault.Field("blobs.secret_key_file", "cannot be read: %v", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// openBlobs returns the store that is configured, or nil for files in the data directory. Nothing is asked of a service.
func (c *Config) openBlobs() (blob.Store, error) {
	b := &c.Blobs
	if b.URL == "" {
		return nil, nil
	}
	u, err := url.Parse(b.URL)
	if err != nil {
		return nil, b.validate()
	}
	secret, err := b.secret()
	if err != nil {
		return nil, err
	}
	// What is gathered there has no name once it is open; the place is the data directory's because a large file fits.
	spool := filepath.Join(c.DataDir, "spool")
	if err := os.MkdirAll(spool, 0o700); err != nil {
		return nil, fault.Field("data_dir", "a directory for files on their way cannot be made: %v", err)
	}
	path := strings.TrimPrefix(u.Path, "/")
	var s blob.Store
	if u.Scheme == "s3" {
		s, err = s3blob.Open(u.Host, &s3blob.Options{
			Prefix: path, Endpoint: b.Endpoint, PublicEndpoint: b.PublicEndpoint, Region: b.Region, PathStyle: b.PathStyle,
			AccessKey: b.AccessKey, SecretKey: secret, SpoolDir: spool,
		})
	} else {
		container, prefix, _ := strings.Cut(path, "/")
		s, err = azureblob.Open(u.Host, container, cmp.Or(secret, os.Getenv(azureKeyVariable)), &azureblob.Options{
			Prefix: prefix, Endpoint: b.Endpoint, PublicEndpoint: b.PublicEndpoint, SpoolDir: spool,
		})
	}
	if err != nil {
		return nil, fault.Field("blobs", "%v", err)
	}
	return s, nil
}

// signsFor reports whether the service's signed URLs are handed out. One whose address means this computer would mean
// another to whoever is elsewhere, so it is not, unless it is given as the public one.
func (b *Blobs) signsFor() bool {
	if !b.Direct || b.URL == "" {
		return false
	}
	u, err := url.Parse(b.Endpoint)
	if b.PublicEndpoint != "" || b.Endpoint == "" || err != nil {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// ownerKey is the object that says whose a store is.
const ownerKey = "dayfly-owner"

// ownsBlobs returns a function that reports, by an error, when a store belongs to the server on another data directory:
// what that one keeps in it looks to this one as if no job knew it. A store that belongs to nobody becomes this
// directory's.
func (c *Config) ownsBlobs(s blob.Store) func(context.Context) error {
	if s == nil {
		return nil
	}
	return func(ctx context.Context) error {
		mine, err := ownerOf(filepath.Join(c.DataDir, "spool", "owner"))
		if err != nil {
			return err
		}
		r, err := s.Get(ctx, ownerKey, 0, 1<<10)
		if fault.Of(err) == fault.NotFound {
			_, err := s.Put(ctx, ownerKey, strings.NewReader(mine), &blob.PutOptions{ContentType: "text/plain"})
			return err
		}
		if err != nil {
			return err
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		if string(got) != mine {
			return fault.Say(fault.Conflict, "%v belongs to the server on another data directory; give each a prefix of its own in blobs.url, "+
				"or, if the other is no more, delete the object %s in it", s, ownerKey)
		}
		return nil
	}
}

// ownerOf returns the name by which a data directory is known in a store, making it the first time.
func ownerOf(file string) (string, error) {
	name, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		fresh := rand.Text() + "\n"
		return fresh, os.WriteFile(file, []byte(fresh), 0o600)
	}
	if err == nil && len(name) < 10 {
		err = fmt.Errorf("app: %w: %s is damaged; delete it, and the object %s in the store", fault.Internal, file, ownerKey)
	}
	return string(name), err
}

// probePatience is how long a store may take to show that it can be used.
const probePatience = 20 * time.Second

// probe puts an object into the store, reads it back, finds it listed and deletes it.
func probe(ctx context.Context, s blob.Store) (err error) {
	ctx, stop := context.WithTimeout(ctx, probePatience)
	defer stop()
	folder := "dayfly-probe/" + rand.Text()
	key, data := folder+"/probe", []byte("This object shows that the store can be used. It may be deleted.\n")
	if _, err := s.Put(ctx, key, bytes.NewReader(data), &blob.PutOptions{ContentType: "text/plain", Size: int64(len(data))}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Delete(ctx, key)) }()
	r, err := s.Get(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(io.LimitReader(r, 1<<10))
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("%w: what was put into it is not what it returned", fault.Internal)
	}
	for info, err := range s.List(ctx, folder+"/") {
		if err != nil {
			return err
		}
		if info.Key == key {
			return nil
		}
	}
	return fmt.Errorf("%w: what was put into it is not in its list", fault.Internal)
}

// examineBlobs looks whether the configured store can be written to, read, listed and cleared.
func examineBlobs(ctx context.Context, c *Config) Check {
	check := Check{Name: "object store", Result: Good}
	s, err := c.openBlobs()
	if err == nil {
		check.Text = fmt.Sprintf("%v can be written to, read, listed and deleted from", s)
		err = probe(ctx, s)
	}
	if err != nil {
		check.Result, check.Text = Bad, err.Error()
		check.Advice = "See [blobs] in the configuration; no input and no artifact can be kept like this."
	}
	return check
}
