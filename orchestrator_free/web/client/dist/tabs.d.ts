/** One feed for all tabs of a browser: one of them leads and has it, the others hear from it; a next one takes over. */
import type { Feed, Follower } from "./feed.js";
import type { Member, Status, View } from "./types.js";
/** Where a session stands, for a tab that has just come. */
export interface Standing {
    view: View;
    members: Member[];
    status: Status;
}
/** A session, as the tabs that share its feed see it. */
export interface Sharing extends Follower {
    standing(): Standing | null;
    adopt(standing: Standing): void;
}
export declare const canShare: () => boolean;
export declare class Tabs {
    #private;
    readonly name: string;
    readonly session: Sharing;
    readonly open: (follower: Follower) => Feed;
    /**
     * @param name the same for all tabs that share a feed.
     * @param session what follows it in this tab.
     * @param open makes a feed for a follower, for when this tab leads.
     */
    constructor(name: string, session: Sharing, open: (follower: Follower) => Feed);
    /** Follow until `close`; and lead as soon as nobody else does. */
    run(): Promise<void>;
    close(): void;
}
/** A name that nobody else has made up. */
export declare function randomName(): string;
