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

// agentsTimeout bounds a call for which a configuration master asks all agents, of which some may not answer.
const agentsTimeout = 6 * time.Second

// DrillState asks every agent of a group and of the configuration masters which drill has it.
func (c *Client) DrillState(ctx context.Context, group string) (*proto.DrillStateReply, error) {
	var reply *proto.DrillStateReply
	err := c.each(ctx, agentsTimeout, func(ctx context.Context, service proto.ConfmasterClient) (err error) {
		reply, err = service.DrillState(ctx, &proto.DrillStateRequest{Group: group})
		return err
	})
	return reply, err
}

// EndDrill has every agent take back what a drill holds there; whoever runs it aborts it.
func (c *Client) EndDrill(ctx context.Context, group, drill string) (*proto.ChangeReply, error) {
	var reply *proto.ChangeReply
	err := c.each(ctx, agentsTimeout, func(ctx context.Context, service proto.ConfmasterClient) (err error) {
		reply, err = service.EndDrill(ctx, &proto.EndDrillRequest{Group: group, Drill: drill})
		return err
	})
	return reply, err
}
