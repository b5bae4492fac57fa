package admin

import (
	"context"
	"time"

	"lockstep/proto"
)

// Change alters a group, or with DryRun says what it would do. A request that names the version of the group as it was seen
// is safe to repeat: carried out once, it is refused the next time.
func (c *Client) Change(ctx context.Context, request *proto.ChangeRequest) (*proto.ChangePlan, error) {
	var reply *proto.ChangePlan
	err := c.each(ctx, 40*time.Second, func(ctx context.Context, service proto.ConfmasterClient) (err error) {
		reply, err = service.Change(ctx, request)
		return err
	})
	return reply, err
}

// Group returns the status of the group of that name, nil if there is none.
func (c *Client) Group(ctx context.Context, name string) (*proto.GroupStatus, error) {
	status, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, group := range status.GetGroups() {
		if group.GetName() == name {
			return group, nil
		}
	}
	return nil, nil
}

// OpenWeb asks for a code with which a browser logs in at the web page of the configuration master that answers.
func (c *Client) OpenWeb(ctx context.Context) (*proto.OpenWebReply, error) {
	var reply *proto.OpenWebReply
	err := c.each(ctx, attemptTimeout, func(ctx context.Context, service proto.ConfmasterClient) (err error) {
		reply, err = service.OpenWeb(ctx, &proto.OpenWebRequest{})
		return err
	})
	return reply, err
}

// Settings answers what operators want of a group: settings, users and function libraries, with their history if that is asked for.
func (c *Client) Settings(ctx context.Context, group string, history bool) (*proto.GroupSettings, error) {
	var reply *proto.GroupSettings
	err := c.each(ctx, attemptTimeout, func(ctx context.Context, service proto.ConfmasterClient) (err error) {
		reply, err = service.Settings(ctx, &proto.GroupSettingsRequest{Group: group, History: history})
		return err
	})
	return reply, err
}
