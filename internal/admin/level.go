package admin

import (
	"context"
	"time"

	"lockstep/proto"
)

// Levels tells which feature level every process can, and the cluster's.
func (c *Client) Levels(ctx context.Context) (*proto.LevelsReply, error) {
	var reply *proto.LevelsReply
	err := c.each(ctx, 5*time.Second, func(ctx context.Context, service proto.ConfmasterClient) (err error) {
		reply, err = service.Levels(ctx, &proto.LevelsRequest{})
		return err
	})
	return reply, err
}

// RaiseLevel raises the cluster's feature level, or with DryRun says whether it would. A request that names the level that was seen is
// safe to repeat.
func (c *Client) RaiseLevel(ctx context.Context, request *proto.RaiseLevelRequest) (*proto.LevelsReply, error) {
	var reply *proto.LevelsReply
	err := c.each(ctx, 40*time.Second, func(ctx context.Context, service proto.ConfmasterClient) (err error) {
		reply, err = service.RaiseLevel(ctx, request)
		return err
	})
	return reply, err
}
