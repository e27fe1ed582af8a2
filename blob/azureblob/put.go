package azureblob

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/remoteblob"
)

// metaSHA256 is the name of the metadata that holds an object's checksum.
const metaSHA256 = "sha256"

// parallel is how many blocks of one object are sent at once.
const parallel = 4

// Put stores an object. Errors of r come back wrapped.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	spool, err := remoteblob.Gather(ctx, r, o, s.options.SpoolDir, s.options.PartSize)
	if err != nil {
		return nil, fmt.Errorf("azureblob: put %q: %w", key, err)
	}
	defer spool.Close()
	if len(spool.Parts) > maxParts {
		return nil, fmt.Errorf("azureblob: put %q: %w: %d bytes are more than %d blocks of %d", key, fault.TooLarge, spool.Size, maxParts, s.options.PartSize)
	}
	headers := &azure.HTTPHeaders{}
	info := &blob.Info{Key: key, Size: spool.Size, SHA256: spool.SHA256}
	if o != nil && o.ContentType != "" {
		info.ContentType, headers.BlobContentType = o.ContentType, &o.ContentType
	}
	at, err := s.send(ctx, s.client.NewBlockBlobClient(name), spool, headers)
	if err != nil {
		return nil, s.explain(ctx, "put", key, err)
	}
	if at == nil {
		now := time.Now()
		at = &now
	}
	info.StoredAt = at.UTC().Truncate(time.Second)
	return info, nil
}

// send stores what has been gathered, in one request or in blocks, and returns when, if the service says so.
func (s *Store) send(ctx context.Context, to *blockblob.Client, spool *remoteblob.Spool, headers *azure.HTTPHeaders) (*time.Time, error) {
	metadata := map[string]*string{metaSHA256: &spool.SHA256}
	if len(spool.Parts) > 1 {
		return s.sendBlocks(ctx, to, spool, &blockblob.CommitBlockListOptions{Metadata: metadata, HTTPHeaders: headers})
	}
	body, sum, err := s.section(spool, 0, spool.Size)
	if err != nil {
		return nil, err
	}
	ctx, watch := remoteblob.NewWatch(ctx, s.patience)
	defer watch.Stop()
	answer, err := to.Upload(ctx, closer{watch.Reader(body)}, &blockblob.UploadOptions{Metadata: metadata, HTTPHeaders: headers, TransactionalValidation: sum})
	return answer.LastModified, watch.Cause(err)
}

// sendBlocks stores a large object. It is to be seen when all blocks have come and the service is given their list. Their
// names are this upload's own, so that another of the same object can be under way.
func (s *Store) sendBlocks(ctx context.Context, to *blockblob.Client, spool *remoteblob.Spool, o *blockblob.CommitBlockListOptions) (*time.Time, error) {
	upload, ids := rand.Text(), make([]string, len(spool.Parts))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range ids {
		ids[i] = base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s-%08d", upload, i))
		group.Go(func() error {
			offset := int64(i) * s.options.PartSize
			body, sum, err := s.section(spool, offset, min(s.options.PartSize, spool.Size-offset))
			if err != nil {
				return err
			}
			ctx, watch := remoteblob.NewWatch(groupCtx, s.patience)
			defer watch.Stop()
			_, err = to.StageBlock(ctx, ids[i], closer{watch.Reader(body)}, &blockblob.StageBlockOptions{TransactionalValidation: sum})
			return watch.Cause(err)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	answer, err := to.CommitBlockList(ctx, ids, o)
	return answer.LastModified, err
}

// section returns a part of what has been gathered, and the checksum that the service is to check it by.
func (s *Store) section(spool *remoteblob.Spool, offset, length int64) (*io.SectionReader, azure.TransferValidationType, error) {
	hash := md5.New() // which is what the service checks; it is against accidents only
	if _, err := io.Copy(hash, spool.Section(offset, length)); err != nil {
		return nil, nil, fmt.Errorf("reading what to store: %w", err)
	}
	return spool.Section(offset, length), azure.TransferValidationTypeMD5(hash.Sum(nil)), nil
}

// closer gives a reader the Close that the library wants.
type closer struct{ io.ReadSeeker }

func (closer) Close() error { return nil }

func isSHA256(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == 32
}
