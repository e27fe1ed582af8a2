package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// scopes are what a token can be allowed.
func scopes() []string { return []string{"submit", "read", "cancel", "shell", "fly", "hire", "admin"} }

func (p *program) tokensCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tokens",
		Short: "Make, list and revoke the tokens that open the API",
		Long: `Tokens let others use a server. One that only this computer can reach needs none; one that others can reach refuses to
start without.`,
		Example: "  dayfly tokens create ci --scope submit,read\n  dayfly tokens list\n  dayfly tokens revoke ci",
		Args:    noneBut,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		Annotations: onlyContains(),
	}
	cmd.AddCommand(p.createTokenCommand(), p.listTokensCommand(), p.revokeTokenCommand())
	return cmd
}

func (p *program) createTokenCommand() *cobra.Command {
	var allowed []string
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token and print it, once",
		Long: `Makes a token and prints it. Only its hash is kept, so it cannot be printed again.

The scopes: submit adds jobs, read sees them, cancel ends and removes them, shell enters their
machines, admin does everything, tokens included.`,
		Example: "  dayfly tokens create laptop --scope admin\n  DAYFLY_TOKEN=$(dayfly tokens create ci --scope submit,read --expires 24h)",
		Args:    exactly("a name for the token"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, s := range allowed {
				if !slices.Contains(scopes(), s) {
					return usage(cmd, "--scope: %q is not a scope; the scopes are %s", s, strings.Join(scopes(), ", "))
				}
			}
			if len(allowed) == 0 {
				return usage(cmd, "--scope: a token that allows nothing is of no use; the scopes are %s", strings.Join(scopes(), ", "))
			}
			if life < 0 || life == 0 && cmd.Flags().Changed("expires") {
				return usage(cmd, "--expires: %v is not in the future; without --expires the token never ends by itself", life)
			}
			return p.with(cmd, func(ctx context.Context, c *connection) error {
				token, err := c.CreateToken(ctx, args[0], allowed, life)
				if err != nil {
					return err
				}
				if p.json {
					return p.printJSON(token)
				}
				fmt.Fprintln(p.out, token.Secret)
				if p.errTTY {
					p.note("This is the only time it is shown. To use it: export DAYFLY_TOKEN=…")
				}
				return nil
			})
		},
	}
	cmd.Flags().StringSliceVar(&allowed, "scope", []string{"submit", "read", "cancel"}, "what it allows: `SCOPE`")
	cmd.Flags().DurationVar(&life, "expires", 0, "when it ends by itself: after a `TIME` such as 24h (default: never)")
	complete(cmd, "scope", scopes()...)
	return cmd
}

func (p *program) listTokensCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List tokens, newest first",
		Example: "  dayfly tokens list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(cmd, func(ctx context.Context, c *connection) error {
				tokens, err := c.Tokens(ctx)
				if err != nil {
					return err
				}
				now := time.Now()
				rows := [][]string{{"ID", "NAME", "SCOPES", "CREATED", "STATE"}}
				for _, t := range tokens {
					if p.json {
						if err := json.NewEncoder(p.out).Encode(t); err != nil {
							return err
						}
						continue
					}
					state := "live"
					switch {
					case t.RevokedAt != nil:
						state = "revoked " + ago(*t.RevokedAt, now)
					case t.ExpiresAt != nil && t.ExpiresAt.Before(now):
						state = "expired " + ago(*t.ExpiresAt, now)
					case t.ExpiresAt != nil:
						state = "live until " + t.ExpiresAt.Local().Format(time.DateTime)
					}
					rows = append(rows, []string{t.ID, t.Name, strings.Join(t.Scopes, ","), ago(t.CreatedAt, now), state})
				}
				if p.json {
					return nil
				}
				if len(rows) == 1 {
					p.note("There are no tokens. To make one: %s", p.typed("tokens create NAME"))
					return nil
				}
				return table(p.out, rows)
			})
		},
	}
}

func (p *program) revokeTokenCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke TOKEN",
		Short:   "End a token at once, by its name or id",
		Example: "  dayfly tokens revoke ci",
		Args:    exactly("the name or id of a token"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, func(ctx context.Context, c *connection) error {
				if err := c.RevokeToken(ctx, args[0]); err != nil {
					return err
				}
				if p.json {
					return p.printJSON(map[string]string{"revoked": args[0]})
				}
				fmt.Fprintln(p.out, plain(args[0]), "revoked")
				return nil
			})
		},
	}
}
